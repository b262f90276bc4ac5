"""Declares meshd.kernel._libbpf, the cffi API-mode extension: every call into libbpf and every system call
that Python's `os` lacks goes through it, with layouts and constants taken from the C headers. cffi releases
the GIL around each call.
"""

from __future__ import annotations

import cffi

DECLARATIONS = """
typedef unsigned int... __u32;
typedef unsigned long long... __u64;

/* -- objects -- */
struct bpf_object; struct bpf_program; struct bpf_map; struct btf;
struct bpf_object_open_opts {
    size_t sz; const char *object_name; char *kernel_log_buf; size_t kernel_log_size; __u32 kernel_log_level;
    ...;
};
struct bpf_object *bpf_object__open_file(const char *path, const struct bpf_object_open_opts *opts);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct btf *bpf_object__btf(const struct bpf_object *obj);
const void *btf__raw_data(const struct btf *btf, __u32 *size);

struct bpf_program *bpf_object__next_program(const struct bpf_object *obj, struct bpf_program *prog);
const char *bpf_program__name(const struct bpf_program *prog);
const char *bpf_program__section_name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);
bool bpf_program__autoload(const struct bpf_program *prog);
int bpf_program__set_autoload(struct bpf_program *prog, bool autoload);
int bpf_program__type(const struct bpf_program *prog);
int bpf_program__expected_attach_type(const struct bpf_program *prog);

struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
const char *bpf_map__name(const struct bpf_map *map);
bool bpf_map__is_internal(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__type(const struct bpf_map *map);
__u32 bpf_map__key_size(const struct bpf_map *map);
__u32 bpf_map__value_size(const struct bpf_map *map);
__u32 bpf_map__max_entries(const struct bpf_map *map);
__u32 bpf_map__map_flags(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, __u32 max_entries);
int bpf_map__set_autocreate(struct bpf_map *map, bool autocreate);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
const void *bpf_map__initial_value(struct bpf_map *map, size_t *psize);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);

const char *libbpf_bpf_prog_type_str(int t);
const char *libbpf_bpf_map_type_str(int t);
int libbpf_probe_bpf_prog_type(int prog_type, const void *opts);
int libbpf_probe_bpf_map_type(int map_type, const void *opts);
int libbpf_probe_bpf_helper(int prog_type, int helper_id, const void *opts);
int libbpf_num_possible_cpus(void);

/* -- maps -- */
struct bpf_map_batch_opts { size_t sz; __u64 elem_flags; __u64 flags; ...; };
struct bpf_map_create_opts { size_t sz; __u32 map_flags; ...; };
int bpf_map_create(int type, const char *name, __u32 key_size, __u32 value_size, __u32 max_entries,
                   const struct bpf_map_create_opts *opts);
int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
int bpf_map_freeze(int fd);
int bpf_map_update_batch(int fd, const void *keys, const void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);
int bpf_map_delete_batch(int fd, const void *keys, __u32 *count, const struct bpf_map_batch_opts *opts);
int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);

/* -- pins, links, programs -- */
int bpf_obj_pin(int fd, const char *pathname);
int bpf_obj_get(const char *pathname);
struct bpf_link_create_opts { size_t sz; __u32 flags; ...; };
int bpf_link_create(int prog_fd, int target_fd, int attach_type, const void *opts);
int bpf_link_update(int link_fd, int new_prog_fd, const void *opts);
int bpf_link_detach(int link_fd);
int bpf_link_get_next_id(__u32 start_id, __u32 *next_id);
int bpf_link_get_fd_by_id(__u32 id);
int bpf_prog_get_fd_by_id(__u32 id);
int bpf_prog_attach(int prog_fd, int attachable_fd, int type, unsigned int flags);
int bpf_prog_detach2(int prog_fd, int attachable_fd, int type);

struct bpf_insn { unsigned char code; unsigned char dst_reg:4; unsigned char src_reg:4; short off; int imm; };
struct bpf_prog_load_opts {
    size_t sz; int expected_attach_type; __u32 attach_btf_id; char *log_buf; __u32 log_size; __u32 log_level;
    ...;
};
int bpf_prog_load(int prog_type, const char *prog_name, const char *license, const struct bpf_insn *insns,
                  size_t insn_cnt, const struct bpf_prog_load_opts *opts);
int libbpf_find_vmlinux_btf_id(const char *name, int attach_type);

/* -- meshd/kernel/shim.h -- */
void meshd_log_install(void);
size_t meshd_log_take(char *out, size_t size);
struct meshd_map_info {
    uint32_t type, id, key_size, value_size, max_entries, flags, btf_id, key_type, value_type; char name[16];
};
struct meshd_prog_info { uint32_t type, id, verified_insns; uint8_t tag[8]; char name[16]; };
struct meshd_link_info { uint32_t type, id, prog_id, attach_type, ifindex; uint64_t cgroup_id; };
int meshd_map_info(int fd, struct meshd_map_info *out);
int meshd_prog_info(int fd, struct meshd_prog_info *out);
int meshd_link_info(int fd, struct meshd_link_info *out);
int meshd_kernel_struct(const char *name);
int meshd_kernel_member(const char *name, const char *member);
int meshd_btf_data(uint32_t btf_id, void *out, uint32_t *size);
struct meshd_test_run {
    const void *data_in; void *data_out; uint32_t data_size_in, data_size_out;
    void *ctx; uint32_t ctx_size; int repeat; uint32_t retval, duration_ns;
};
int meshd_prog_test_run(int fd, struct meshd_test_run *run);
struct meshd_ring {
    uint8_t *arena; uint32_t record_size, capacity, used; uint64_t malformed; ...;
};
int meshd_ring_open(struct meshd_ring *ring, int map_fd, uint32_t record_size, uint32_t capacity);
int meshd_ring_epoll_fd(const struct meshd_ring *ring);
int meshd_ring_drain(struct meshd_ring *ring);
void meshd_ring_close(struct meshd_ring *ring);

/* -- meshd/kernel/prober.h -- */
struct meshd_probe_target { uint8_t address[16], source[16]; uint32_t id; uint16_t port; };
struct meshd_probe_state {
    uint32_t id, unanswered, unsent; uint64_t asked, answered, last_asked_ns, last_answer_ns, srtt_ns, rttvar_ns;
    int32_t last_error;
};
struct meshd_prober_health { uint64_t now_ns, late_ns, turns; };
struct meshd_prober *meshd_prober_start(void);
int meshd_prober_set(struct meshd_prober *prober, const struct meshd_probe_target *targets, uint32_t count,
                     uint64_t interval_ns);
uint32_t meshd_prober_read(struct meshd_prober *prober, struct meshd_probe_state *out, uint32_t room,
                           struct meshd_prober_health *health);
void meshd_prober_stop(struct meshd_prober *prober);

/* -- namespaces and mounts -- */
int setns(int fd, int nstype);
int unshare(int flags);
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
int umount2(const char *target, int flags);

/* -- sock_diag: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h -- */
struct nlmsghdr { uint32_t nlmsg_len; uint16_t nlmsg_type, nlmsg_flags; uint32_t nlmsg_seq, nlmsg_pid; };
struct nlattr { uint16_t nla_len, nla_type; };
struct nlmsgerr { int error; ...; };
struct inet_diag_sockid {
    uint16_t idiag_sport, idiag_dport; uint32_t idiag_src[4], idiag_dst[4], idiag_if, idiag_cookie[2];
};
struct inet_diag_req_v2 {
    uint8_t sdiag_family, sdiag_protocol, idiag_ext, pad; uint32_t idiag_states; struct inet_diag_sockid id;
};
struct inet_diag_bc_op { unsigned char code, yes; unsigned short no; };
struct inet_diag_hostcond { uint8_t family, prefix_len; int port; uint32_t addr[]; };
struct inet_diag_msg {
    uint8_t idiag_family, idiag_state, idiag_timer, idiag_retrans; struct inet_diag_sockid id;
    uint32_t idiag_expires, idiag_rqueue, idiag_wqueue, idiag_uid, idiag_inode;
};
"""

# Constants whose values the C compiler fills in.
CONSTANTS = """
BPF_ANY BPF_NOEXIST BPF_EXIST BPF_F_NO_PREALLOC
BPF_CGROUP_INET4_CONNECT BPF_CGROUP_INET6_CONNECT BPF_CGROUP_UDP4_SENDMSG BPF_CGROUP_UDP6_SENDMSG
BPF_CGROUP_UDP4_RECVMSG BPF_CGROUP_UDP6_RECVMSG BPF_CGROUP_INET4_GETPEERNAME BPF_CGROUP_INET6_GETPEERNAME
BPF_CGROUP_SOCK_OPS BPF_CGROUP_GETSOCKOPT BPF_CGROUP_SETSOCKOPT BPF_CGROUP_INET_SOCK_RELEASE
BPF_CGROUP_INET_SOCK_CREATE BPF_CGROUP_INET_INGRESS BPF_CGROUP_INET_EGRESS BPF_CGROUP_INET4_POST_BIND
BPF_SK_MSG_VERDICT BPF_SK_LOOKUP BPF_XDP BPF_TRACE_FENTRY BPF_TRACE_ITER BPF_LSM_MAC
BPF_PROG_TYPE_SOCKET_FILTER BPF_PROG_TYPE_KPROBE BPF_PROG_TYPE_SCHED_CLS BPF_PROG_TYPE_TRACEPOINT
BPF_PROG_TYPE_XDP BPF_PROG_TYPE_CGROUP_SKB BPF_PROG_TYPE_CGROUP_SOCK BPF_PROG_TYPE_SOCK_OPS
BPF_PROG_TYPE_SK_MSG BPF_PROG_TYPE_CGROUP_SOCK_ADDR BPF_PROG_TYPE_CGROUP_SOCKOPT BPF_PROG_TYPE_TRACING
BPF_PROG_TYPE_LSM BPF_PROG_TYPE_SK_LOOKUP BPF_PROG_TYPE_SYSCALL
BPF_MAP_TYPE_HASH BPF_MAP_TYPE_ARRAY BPF_MAP_TYPE_PROG_ARRAY BPF_MAP_TYPE_PERCPU_HASH
BPF_MAP_TYPE_PERCPU_ARRAY BPF_MAP_TYPE_LRU_HASH BPF_MAP_TYPE_LRU_PERCPU_HASH BPF_MAP_TYPE_LPM_TRIE
BPF_MAP_TYPE_SOCKMAP BPF_MAP_TYPE_SOCKHASH BPF_MAP_TYPE_RINGBUF BPF_MAP_TYPE_SK_STORAGE
BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE BPF_MAP_TYPE_ARRAY_OF_MAPS BPF_MAP_TYPE_HASH_OF_MAPS
BPF_FUNC_get_netns_cookie BPF_FUNC_get_socket_cookie BPF_FUNC_set_retval BPF_FUNC_sk_storage_get
BPF_FUNC_ringbuf_output BPF_FUNC_redirect_peer BPF_FUNC_redirect_neigh BPF_FUNC_msg_redirect_hash
BPF_FUNC_sk_lookup_tcp BPF_FUNC_get_prandom_u32 BPF_FUNC_ktime_get_ns BPF_FUNC_bind
CLONE_NEWNET CLONE_NEWNS MS_BIND MS_NOSUID MS_NODEV MS_NOEXEC MS_REC MS_PRIVATE MNT_DETACH
SOCK_DIAG_BY_FAMILY SOCK_DESTROY NLM_F_REQUEST NLM_F_DUMP NLM_F_ACK NLM_F_DUMP_INTR NLMSG_ERROR NLMSG_DONE
INET_DIAG_REQ_BYTECODE INET_DIAG_BC_D_COND INET_DIAG_BC_S_COND
"""

SOURCE = """
#include <sched.h>
#include <sys/mount.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include "prober.h"
#include "shim.h"
"""

ffibuilder = cffi.FFI()
ffibuilder.cdef(DECLARATIONS + "".join(f"static const int {name};\n" for name in CONSTANTS.split()))
ffibuilder.set_source(
    "meshd.kernel._libbpf",
    SOURCE,
    sources=["meshd/kernel/shim.c", "meshd/kernel/ring_arena.c", "meshd/kernel/prober.c"],
    depends=["meshd/kernel/shim.h", "meshd/kernel/prober.h", "build_backend/libbpf_extension.py"],
    include_dirs=["meshd/kernel"],
    libraries=["bpf"],
    # libbpf marks what it replaced as deprecated; nothing of that is used, and new warnings are worth seeing.
    extra_compile_args=["-O2", "-Wall", "-Wno-unused-function"],
)
