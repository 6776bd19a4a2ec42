/* SPDX-License-Identifier: GPL-2.0 */
/* Functions for what Rust cannot call in the kernel's headers: macros and inline functions. */
#ifndef DM_RS_HELPERS_H
#define DM_RS_HELPERS_H

#include <linux/blkdev.h>
#include <linux/mempool.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

void dm_rs_bio_set_dev(struct bio *bio, struct block_device *bdev);
void dm_rs_bio_end(struct bio *bio, u8 status);
sector_t dm_rs_bdev_nr_sectors(struct block_device *bdev);
unsigned int dm_rs_bdev_logical_block_size(struct block_device *bdev);

mempool_t *dm_rs_mempool_create(int min_nr, size_t size);
void *dm_rs_mempool_alloc_noio(mempool_t *pool);

void dm_rs_spin_lock_init(spinlock_t *lock, const char *name, struct lock_class_key *key);
unsigned long dm_rs_spin_lock_irqsave(spinlock_t *lock);
bool dm_rs_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags);
void dm_rs_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);
void dm_rs_lockdep_assert_held(spinlock_t *lock);

void dm_rs_wait_begin(struct wait_queue_entry *entry);
void dm_rs_wait_prepare(struct wait_queue_head *head, struct wait_queue_entry *entry);
void dm_rs_wait_finish(struct wait_queue_head *head, struct wait_queue_entry *entry);
void dm_rs_wake_all(struct wait_queue_head *head);

unsigned int dm_rs_noio_save(void);
void dm_rs_noio_restore(unsigned int flags);

struct workqueue_struct *dm_rs_workqueue_create(const char *name);

#endif
