// SPDX-License-Identifier: Apache-2.0
#include "shim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/bpf.h>

/* Attach types and link types that Debian 12's headers are too old to name. */
enum {
	LINK_TYPE_TCX = 11,
};

static _Thread_local char log_text[32 * 1024];
static _Thread_local size_t log_used;

static int keep_warning(enum libbpf_print_level level, const char *format, va_list args)
{
	int written;

	/* The end of a log is what explains it, but libbpf's first warning names the culprit: keep the beginning. */
	if (level != LIBBPF_WARN || log_used + 1 >= sizeof(log_text))
		return 0;
	written = vsnprintf(log_text + log_used, sizeof(log_text) - log_used, format, args);
	if (written > 0) {
		log_used += (size_t)written;
		if (log_used >= sizeof(log_text))
			log_used = sizeof(log_text) - 1;
	}
	return written;
}

void meshd_log_install(void)
{
	libbpf_set_print(keep_warning);
}

size_t meshd_log_take(char *out, size_t size)
{
	size_t taken = log_used < size ? log_used : size;

	memcpy(out, log_text, taken);
	log_used = 0;
	return taken;
}

int meshd_map_info(int fd, struct meshd_map_info *out)
{
	struct bpf_map_info info = {};
	__u32 size = sizeof(info);
	int err = bpf_obj_get_info_by_fd(fd, &info, &size);

	if (err)
		return err;
	out->type = info.type;
	out->id = info.id;
	out->key_size = info.key_size;
	out->value_size = info.value_size;
	out->max_entries = info.max_entries;
	out->flags = info.map_flags;
	out->btf_id = info.btf_id;
	out->key_type = info.btf_key_type_id;
	out->value_type = info.btf_value_type_id;
	memcpy(out->name, info.name, sizeof(out->name));
	return 0;
}

int meshd_btf_data(uint32_t btf_id, void *out, uint32_t *size)
{
	struct bpf_btf_info info = { .btf = (uintptr_t)out, .btf_size = *size };
	__u32 info_size = sizeof(info);
	int err, fd = bpf_btf_get_fd_by_id(btf_id);

	if (fd < 0)
		return fd;
	err = bpf_obj_get_info_by_fd(fd, &info, &info_size);
	*size = info.btf_size;
	close(fd);
	return err;
}

int meshd_kernel_struct(const char *name)
{
	struct btf *types = btf__load_vmlinux_btf();
	int found = types ? btf__find_by_name_kind(types, name, BTF_KIND_STRUCT) : -errno;

	btf__free(types);
	return found;
}

static int has_member(const struct btf *types, const struct btf_type *of, const char *member)
{
	const struct btf_member *members = btf_members(of);

	for (unsigned int at = 0; at < btf_vlen(of); at++)
		if (!strcmp(btf__name_by_offset(types, members[at].name_off), member))
			return 1;
	return 0;
}

int meshd_kernel_member(const char *name, const char *member)
{
	struct btf *types = btf__load_vmlinux_btf();
	int found = types ? btf__find_by_name_kind(types, name, BTF_KIND_STRUCT) : -errno;

	if (found > 0)
		found = has_member(types, btf__type_by_id(types, found), member);
	btf__free(types);
	return found;
}

int meshd_prog_info(int fd, struct meshd_prog_info *out)
{
	struct bpf_prog_info info = {};
	__u32 size = sizeof(info);
	int err = bpf_obj_get_info_by_fd(fd, &info, &size);

	if (err)
		return err;
	out->type = info.type;
	out->id = info.id;
	out->verified_insns = info.verified_insns;
	memcpy(out->tag, info.tag, sizeof(out->tag));
	memcpy(out->name, info.name, sizeof(out->name));
	return 0;
}

int meshd_link_info(int fd, struct meshd_link_info *out)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);
	int err = bpf_obj_get_info_by_fd(fd, &info, &size);

	if (err)
		return err;
	memset(out, 0, sizeof(*out));
	out->type = info.type;
	out->id = info.id;
	out->prog_id = info.prog_id;
	switch (info.type) {
	case BPF_LINK_TYPE_CGROUP:
		out->cgroup_id = info.cgroup.cgroup_id;
		out->attach_type = info.cgroup.attach_type;
		break;
	case BPF_LINK_TYPE_XDP:
		out->ifindex = info.xdp.ifindex;
		out->attach_type = BPF_XDP;
		break;
	case LINK_TYPE_TCX: /* { ifindex, attach_type }, the layout the older netns member already has */
		out->ifindex = info.netns.netns_ino;
		out->attach_type = info.netns.attach_type;
		break;
	case BPF_LINK_TYPE_NETNS:
		out->attach_type = info.netns.attach_type;
		break;
	}
	return 0;
}

int meshd_prog_test_run(int fd, struct meshd_test_run *run)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = run->data_in, .data_out = run->data_out,
		    .data_size_in = run->data_size_in, .data_size_out = run->data_size_out, .repeat = run->repeat);
	int err;

	if (run->ctx_size) {
		opts.ctx_in = run->ctx;
		opts.ctx_size_in = run->ctx_size;
		/* Syscall programs write their context in place and refuse a place for output. */
		if (run->data_size_in) {
			opts.ctx_out = run->ctx;
			opts.ctx_size_out = run->ctx_size;
		}
	}
	err = bpf_prog_test_run_opts(fd, &opts);
	run->data_size_out = opts.data_size_out;
	run->retval = opts.retval;
	run->duration_ns = opts.duration;
	return err;
}
