/* SPDX-License-Identifier: GPL-2.0 */
/* Functions for what Rust cannot call in the kernel's headers: macros and inline functions. */
#ifndef DM_RS_HELPERS_H
#define DM_RS_HELPERS_H

#include <linux/blkdev.h>
#include <linux/mempool.h>
#include <linux/spinlock.h>

void dm_rs_bio_set_dev(struct bio *bio, struct block_device *bdev);
sector_t dm_rs_bdev_nr_sectors(struct block_device *bdev);
unsigned int dm_rs_bdev_logical_block_size(struct block_device *bdev);

struct bio *dm_rs_bio_alloc_noio(struct block_device *bdev, unsigned short vecs, blk_opf_t opf, struct bio_set *bs);

struct page *dm_rs_alloc_block(unsigned int order, bool wait);
void dm_rs_get_page(struct page *page);
void dm_rs_put_page(struct page *page);

mempool_t *dm_rs_mempool_create_kmalloc_pool(int min_nr, size_t size);
void *dm_rs_mempool_alloc_noio(mempool_t *pool);

unsigned long dm_rs_spin_lock_irqsave(spinlock_t *lock);
bool dm_rs_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags);
void dm_rs_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);

unsigned int dm_rs_memalloc_noio_save(void);
void dm_rs_memalloc_noio_restore(unsigned int flags);

#endif
