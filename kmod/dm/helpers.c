// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. Nothing is decided here: each function is one call. */
#include <linux/bio.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>

#include "helpers.h"

void dm_rs_bio_set_dev(struct bio *bio, struct block_device *bdev)
{
	bio_set_dev(bio, bdev);
}

void dm_rs_bio_end(struct bio *bio, u8 status)
{
	bio->bi_status = (__force blk_status_t)status;
	bio_endio(bio);
}

sector_t dm_rs_bdev_nr_sectors(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev);
}

unsigned int dm_rs_bdev_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

mempool_t *dm_rs_mempool_create(int min_nr, size_t size)
{
	return mempool_create_kmalloc_pool(min_nr, size);
}

void *dm_rs_mempool_alloc_noio(mempool_t *pool)
{
	return mempool_alloc(pool, GFP_NOIO);
}

void dm_rs_spin_lock_init(spinlock_t *lock, const char *name, struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__raw_spin_lock_init(spinlock_check(lock), name, key, LD_WAIT_CONFIG);
#else
	spin_lock_init(lock);
#endif
}

unsigned long dm_rs_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

bool dm_rs_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags)
{
	return spin_trylock_irqsave(lock, *flags);
}

void dm_rs_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

void dm_rs_lockdep_assert_held(spinlock_t *lock)
{
	lockdep_assert_held(lock);
}

void dm_rs_wait_begin(struct wait_queue_entry *entry)
{
	init_wait(entry);
}

void dm_rs_wait_prepare(struct wait_queue_head *head, struct wait_queue_entry *entry)
{
	prepare_to_wait(head, entry, TASK_UNINTERRUPTIBLE);
}

void dm_rs_wait_finish(struct wait_queue_head *head, struct wait_queue_entry *entry)
{
	finish_wait(head, entry);
}

void dm_rs_wake_all(struct wait_queue_head *head)
{
	wake_up_all(head);
}

unsigned int dm_rs_noio_save(void)
{
	return memalloc_noio_save();
}

void dm_rs_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

struct workqueue_struct *dm_rs_workqueue_create(const char *name)
{
	return alloc_workqueue("%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
}
