/* meshd-cni: what a container runtime starts for each CNI command. It hands the environment and stdin to the agent's socket and
 * prints the agent's answer; it knows nothing else, so it need not change when the agent does. Static, because it runs on
 * hosts of any distribution. Only VERSION it answers itself: libcni asks it without telling the configuration, so nobody knows
 * which agent's answer it would be.
 *
 *   to the agent     u32 length of E, u32 length of C, E, C      E: JSON object of the variables, C: stdin as it is
 *   from the agent   u32 length of A, u32 exit status, A          A: what goes to stdout
 *
 * Numbers are big-endian. The other side is meshd/servers/cni/frames.py. */
#include "bare.h"

#define SOCKET_DEFAULT "/run/meshd/cni.sock"
/* The same as VERSIONS in meshd/servers/cni/question.py. */
#define VERSIONS     "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
#define CONFIG_BYTES (1 << 20)
#define ENVIRONMENT_BYTES (64 << 10)
/* Longer than any runtime waits; it ends us, or an agent that hangs does not keep us for ever. */
#define ANSWER_SECONDS 300

/* Codes of the CNI specification. */
enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, INVALID_CONFIG = 7, TRY_AGAIN_LATER = 11, NOT_AVAILABLE = 50 };

struct text {
	char *bytes;
	size_t length;
	size_t room;
};

static char **environment_variables;

static char config_bytes[CONFIG_BYTES + 1];
static char environment_bytes[ENVIRONMENT_BYTES];
static char message_bytes[4096];
static char version[16] = "1.0.0";
static struct sockaddr_un agent = { .sun_family = AF_UNIX, .sun_path = SOCKET_DEFAULT };

/* False where there is no room; then nothing was added. */
static int add(struct text *text, const char *bytes, size_t length)
{
	if (text->room - text->length < length)
		return 0;
	memcpy(text->bytes + text->length, bytes, length);
	text->length += length;
	return 1;
}

static int add_string(struct text *text, const char *string)
{
	return add(text, string, strlen(string));
}

/* As the inside of a JSON string. */
static int add_escaped(struct text *text, const char *string, size_t length)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < length; i++) {
		unsigned char c = string[i];
		char escaped[6] = { '\\', 'u', '0', '0', digits[c >> 4], digits[c & 15] };
		char quoted[2] = { '\\', c };

		if (!(c < 0x20		      ? add(text, escaped, sizeof(escaped))
		      : c == '"' || c == '\\' ? add(text, quoted, sizeof(quoted))
					      : add(text, string + i, 1)))
			return 0;
	}
	return 1;
}

/* 0, or an error. A reader that is gone is an error and no signal. */
static long send_all(int server, const char *bytes, size_t length)
{
	while (length) {
		long sent = call(SENDTO, server, (long)bytes, (long)length, MSG_NOSIGNAL, 0, 0);

		if (sent == -EINTR)
			continue;
		if (sent < 0)
			return -sent;
		bytes += sent;
		length -= (size_t)sent;
	}
	return 0;
}

/* Nobody can be told of an error here. */
static void print(const char *bytes, size_t length)
{
	while (length) {
		long written = call(WRITE, 1, (long)bytes, (long)length, 0, 0, 0);

		if (written == -EINTR)
			continue;
		if (written <= 0)
			return;
		bytes += written;
		length -= (size_t)written;
	}
}

/* How many bytes there were, at most ``length``; an error as a negative number. */
static long read_most(int file, char *bytes, size_t length)
{
	size_t done = 0;

	while (done < length) {
		long got = call(READ, file, (long)(bytes + done), (long)(length - done), 0, 0, 0);

		if (got == -EINTR)
			continue;
		if (got < 0)
			return got;
		if (!got)
			break;
		done += (size_t)got;
	}
	return (long)done;
}

/* The value of an environment variable; 0 where there is none. ``name`` ends in ``=``. */
static const char *variable(const char *name)
{
	for (char **each = environment_variables; *each; each++)
		if (has_prefix(*each, name))
			return *each + strlen(name);
	return 0;
}

/* Prints a CNI error and ends. ``subject`` may be empty. */
static void __attribute__((noreturn)) fail(int code, const char *message, const char *subject, const char *reason)
{
	struct text out = { message_bytes, 0, sizeof(message_bytes) };
	char number[2] = { '0' + code / 10, '0' + code % 10 };

	add_string(&out, "{\"cniVersion\":\"");
	add_escaped(&out, version, strlen(version));
	add_string(&out, "\",\"code\":");
	add(&out, number + (code < 10), 2 - (code < 10));
	add_string(&out, ",\"msg\":\"");
	add_string(&out, message);
	add_escaped(&out, subject, strlen(subject));
	add_string(&out, "\",\"details\":\"");
	add_escaped(&out, reason, strlen(reason));
	add_string(&out, "\"}\n");
	print(out.bytes, out.length);
	end(1);
}

/* An agent that does not answer. STATUS has a code of its own for a plugin that cannot serve an ADD. */
static void __attribute__((noreturn)) away(const char *reason)
{
	const char *command = variable("CNI_COMMAND=");
	int is_status = command && has_prefix(command, "STATUS");
	int code = is_status ? NOT_AVAILABLE : TRY_AGAIN_LATER;

	fail(code, "the meshd agent does not answer at ", agent.sun_path, reason);
}

static const char *past_space(const char *at)
{
	while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')
		at++;
	return at;
}

/* ``at`` is behind an opening quote; the closing one, or the end of the text. */
static const char *string_end(const char *at)
{
	while (*at && *at != '"')
		at += *at == '\\' && at[1] ? 2 : 1;
	return at;
}

/* The string of ``key`` in the outermost object of ``json`` as it is spelled there; 0 where there is none. No judge of JSON:
 * the agent refuses what is none. */
static const char *member(const char *json, const char *key, size_t *length)
{
	int depth = 0;

	for (const char *at = json; *at; at++) {
		const char *name = at + 1, *end, *value;

		if (*at == '{' || *at == '[')
			depth++;
		if (*at == '}' || *at == ']')
			depth--;
		if (*at != '"')
			continue;
		at = end = string_end(name);
		if (!*end)
			return 0;
		value = past_space(end + 1);
		if (depth != 1 || *value != ':' || (size_t)(end - name) != strlen(key) || memcmp(name, key, end - name))
			continue;
		value = past_space(value + 1);
		if (*value != '"')
			return 0;
		*length = string_end(value + 1) - (value + 1);
		return value + 1;
	}
	return 0;
}

static int has_backslash(const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (bytes[i] == '\\')
			return 1;
	return 0;
}

static void read_config(struct text *config)
{
	long got = read_most(0, config->bytes, config->room + 1);
	const char *value;
	size_t length;

	if (got < 0)
		fail(IO_FAILURE, "the network configuration on stdin cannot be read", "", reason_of(-got));
	if ((size_t)got > config->room)
		fail(INVALID_CONFIG, "the network configuration on stdin is longer than 1 MiB", "", "");
	config->length = (size_t)got;
	config->bytes[got] = 0;
	value = member(config->bytes, "cniVersion", &length);
	if (value && length < sizeof(version)) {
		memcpy(version, value, length);
		version[length] = 0;
	}
	value = member(config->bytes, "socket", &length);
	if (!value)
		return;
	if (length >= sizeof(agent.sun_path) || has_backslash(value, length) || *value != '/')
		fail(INVALID_CONFIG, "socket must be an absolute path of at most 107 bytes without a backslash", "", "");
	memset(agent.sun_path, 0, sizeof(agent.sun_path));
	memcpy(agent.sun_path, value, length);
}

static void collect_environment(struct text *out)
{
	int fits = add_string(out, "{");

	for (char **each = environment_variables; *each; each++) {
		const char *value = find(*each, '=');

		if (!value || !(has_prefix(*each, "CNI_") || has_prefix(*each, "TRACEPARENT=")))
			continue;
		fits = fits && add_string(out, out->length > 1 ? ",\"" : "\"") && add_escaped(out, *each, value - *each) &&
		       add_string(out, "\":\"") && add_escaped(out, value + 1, strlen(value + 1)) && add_string(out, "\"");
	}
	if (!fits || !add_string(out, "}"))
		fail(INVALID_ENVIRONMENT, "the CNI variables are longer than 64 KiB", "", "");
}

static int ask(const struct text *environment, const struct text *config)
{
	uint32_t header[2] = { big_endian((uint32_t)environment->length), big_endian((uint32_t)config->length) };
	struct timeval limit = { ANSWER_SECONDS, 0 };
	long server = call(SOCKET, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0, 0), error;

	if (server < 0)
		away(reason_of(-server));
	call(SETSOCKOPT, server, SOL_SOCKET, SO_RCVTIMEO, (long)&limit, sizeof(limit), 0);
	call(SETSOCKOPT, server, SOL_SOCKET, SO_SNDTIMEO, (long)&limit, sizeof(limit), 0);
	error = -call(CONNECT, server, (long)&agent, sizeof(agent), 0, 0, 0);
	error = error ? error : send_all((int)server, (char *)header, sizeof(header));
	error = error ? error : send_all((int)server, environment->bytes, environment->length);
	error = error ? error : send_all((int)server, config->bytes, config->length);
	if (error)
		away(reason_of(error));
	return (int)server;
}

static int forward(void)
{
	struct text config = { config_bytes, 0, CONFIG_BYTES };
	struct text environment = { environment_bytes, 0, sizeof(environment_bytes) };
	const char *command = variable("CNI_COMMAND=");
	uint32_t header[2];
	long got, length;
	int server;

	if (command && has_prefix(command, "VERSION")) {
		print(VERSIONS, sizeof(VERSIONS) - 1);
		return 0;
	}
	read_config(&config);
	collect_environment(&environment);
	server = ask(&environment, &config);
	got = read_most(server, (char *)header, sizeof(header));
	length = big_endian(header[0]);
	if (got < 0)
		away(reason_of(-got));
	if (got < (long)sizeof(header) || length > CONFIG_BYTES)
		away("It ended before it answered");
	if (read_most(server, config_bytes, (size_t)length) != length)
		away("It ended within its answer");
	print(config_bytes, (size_t)length);
	return (int)big_endian(header[1]);
}

/* ``stack`` is what the kernel leaves there: the number of arguments, these and a 0, then the environment and a 0. */
void __attribute__((noreturn, used)) begin(long *stack)
{
	environment_variables = (char **)(stack + 1 + stack[0] + 1);
	end(forward());
}
