// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. Nothing is decided here: each function is one call. */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/mempool.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/spinlock.h>

#include "helpers.h"

void dm_rs_bio_set_dev(struct bio *bio, struct block_device *bdev)
{
	bio_set_dev(bio, bdev);
}

sector_t dm_rs_bdev_nr_sectors(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev);
}

unsigned int dm_rs_bdev_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

struct bio *dm_rs_bio_alloc_noio(struct block_device *bdev, unsigned short vecs, blk_opf_t opf, struct bio_set *bs)
{
	return bio_alloc_bioset(bdev, vecs, opf, GFP_NOIO, bs);
}

struct page *dm_rs_alloc_block(unsigned int order, bool wait)
{
	gfp_t flags = wait ? GFP_KERNEL : GFP_NOWAIT | __GFP_NOWARN;

	return alloc_pages(flags | __GFP_COMP, order);
}

void dm_rs_get_page(struct page *page)
{
	get_page(page);
}

void dm_rs_put_page(struct page *page)
{
	put_page(page);
}

mempool_t *dm_rs_mempool_create_kmalloc_pool(int min_nr, size_t size)
{
	return mempool_create_kmalloc_pool(min_nr, size);
}

void *dm_rs_mempool_alloc_noio(mempool_t *pool)
{
	return mempool_alloc(pool, GFP_NOIO);
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

unsigned int dm_rs_memalloc_noio_save(void)
{
	return memalloc_noio_save();
}

void dm_rs_memalloc_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}
