/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of the pod network without its programs: for tests of the rows that the agent writes. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "maps/pod_network.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
