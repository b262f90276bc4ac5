/* A program without a C library: its start, the system calls it makes and the functions that compilers take for granted.
 * So there is nothing to link with, and one compiler makes it for both machines in a moment. Numbers of calls, errors and
 * options are the kernel's ABI: asm/unistd_64.h, asm-generic/unistd.h, asm-generic/errno.h, asm-generic/socket.h. */
#pragma once

typedef __SIZE_TYPE__ size_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, SOCKET = 41, CONNECT = 42, SENDTO = 44, SETSOCKOPT = 54, EXIT_GROUP = 231 };
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n hlt\n");
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, SOCKET = 198, CONNECT = 203, SENDTO = 206, SETSOCKOPT = 208, EXIT_GROUP = 94 };
__asm__(".globl _start\n_start:\n mov x0, sp\n bl begin\n brk #0\n");
#else
#error "meshd runs on x86_64 and aarch64"
#endif

enum { AF_UNIX = 1, SOCK_STREAM = 1, SOCK_CLOEXEC = 02000000, SOL_SOCKET = 1, MSG_NOSIGNAL = 0x4000 };
enum { SO_RCVTIMEO = 20, SO_SNDTIMEO = 21 };
enum { ENOENT = 2, EINTR = 4, EAGAIN = 11, EACCES = 13, ENOTDIR = 20, EPIPE = 32, ECONNRESET = 104, ECONNREFUSED = 111 };

struct sockaddr_un {
	uint16_t sun_family;
	char sun_path[108];
};

struct timeval {
	long tv_sec;
	long tv_usec;
};

/* The result, or an error as a negative number. */
static long call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#else
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#endif
}

static void __attribute__((noreturn)) end(int status)
{
	for (;;)
		call(EXIT_GROUP, status, 0, 0, 0, 0, 0);
}

/* These four are called by what the compiler makes of assignments and initialisers too. */
void *memcpy(void *to, const void *from, size_t length)
{
	for (size_t i = 0; i < length; i++)
		((char *)to)[i] = ((const char *)from)[i];
	return to;
}

void *memset(void *to, int value, size_t length)
{
	for (size_t i = 0; i < length; i++)
		((char *)to)[i] = (char)value;
	return to;
}

int memcmp(const void *left, const void *right, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (((const char *)left)[i] != ((const char *)right)[i])
			return 1;
	return 0;
}

size_t strlen(const char *string)
{
	size_t length = 0;

	while (string[length])
		length++;
	return length;
}

static int has_prefix(const char *string, const char *prefix)
{
	for (; *prefix; string++, prefix++)
		if (*string != *prefix)
			return 0;
	return 1;
}

static const char *find(const char *string, char wanted)
{
	while (*string && *string != wanted)
		string++;
	return *string ? string : 0;
}

static uint32_t big_endian(uint32_t number)
{
	return __builtin_bswap32(number);
}

/* How people call ``error``; those that a socket of ours can meet. */
static const char *reason_of(long error)
{
	static char other[] = "error 000";

	switch (error) {
	case ENOENT:
		return "No such file or directory";
	case EAGAIN:
		return "It took too long";
	case EACCES:
		return "Permission denied";
	case ENOTDIR:
		return "Not a directory";
	case EPIPE:
	case ECONNRESET:
		return "It ended the connection";
	case ECONNREFUSED:
		return "Connection refused";
	}
	for (int i = 0, rest = (int)error; i < 3; i++, rest /= 10)
		other[sizeof(other) - 2 - i] = (char)('0' + rest % 10);
	return other;
}
