// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

static int keep_record(void *ctx, void *data, size_t size)
{
	struct meshd_ring *ring = ctx;

	/* The kernel rounds nothing here: `size` is what the program reserved. */
	if (size != ring->record_size) {
		ring->malformed++;
		return 0;
	}
	memcpy(ring->arena + (size_t)ring->used * ring->record_size, data, size);
	/* An error stops libbpf after it has released this event, so stopping on the last free place loses nothing. */
	return ++ring->used == ring->capacity ? -ENOSPC : 0;
}

int meshd_ring_open(struct meshd_ring *ring, int map_fd, uint32_t record_size, uint32_t capacity)
{
	memset(ring, 0, sizeof(*ring));
	ring->record_size = record_size;
	ring->capacity = capacity;
	ring->arena = calloc(capacity, record_size);
	if (!ring->arena)
		return -ENOMEM;
	ring->rings = ring_buffer__new(map_fd, keep_record, ring, NULL);
	if (!ring->rings) {
		int err = -errno;

		meshd_ring_close(ring);
		return err;
	}
	return 0;
}

int meshd_ring_epoll_fd(const struct meshd_ring *ring)
{
	return ring_buffer__epoll_fd(ring->rings);
}

int meshd_ring_drain(struct meshd_ring *ring)
{
	int result;

	ring->used = 0;
	result = ring_buffer__consume(ring->rings);
	if (result == -ENOSPC)
		return 1;
	return result < 0 ? result : 0;
}

void meshd_ring_close(struct meshd_ring *ring)
{
	ring_buffer__free(ring->rings);
	free(ring->arena);
	ring->rings = NULL;
	ring->arena = NULL;
}
