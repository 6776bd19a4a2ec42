// SPDX-License-Identifier: GPL-2.0

//! What a remote writer asks the copiers on this host to keep.
//!
//! Each request is a range that the writer is about to overwrite. Like a merge before a window,
//! the worker first begins the copies of all requests that are there, then waits for them, and for
//! the reads that may still be on their way to the volume. Meanwhile others gather.

use crate::agent::Agent;
use crate::dm::new_irq_lock;
use crate::dm::without_io;
use crate::dm::IrqLock;
use crate::dm::Ready;
use crate::dm::WorkQueue;
use crate::holey_core::agent::Event;
use crate::holey_core::format::ChunkSize;
use crate::holey_core::stable::Range;
use crate::origin_set::Origin;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use kernel::impl_has_work;
use kernel::new_work;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::workqueue::Work;
use kernel::workqueue::WorkItem;

/// Requests that are not answered, or whose answers nobody has fetched.
const REQUESTS: usize = 8192;
/// Chunks that are asked of the copiers at a time, which look at them one by one.
const PIECE: u64 = 256;

/// A request.
#[derive(Clone, Copy, Default)]
struct Request {
    number: u64,
    range: Range,
}

struct State {
    /// Those that wait; taken by the worker as a whole.
    waiting: KVVec<Request>,
    /// Where the worker puts them.
    spare: KVVec<Request>,
    /// Numbers of those that are fulfilled: a ring.
    done: KVVec<u64>,
    first_done: usize,
    count_done: usize,
    /// Requests that somebody still has to fetch the answer of.
    open: usize,
    /// Whom answers wake; it holds the keeper, until it is closed.
    agent: Option<Arc<Agent>>,
}

impl State {
    fn wake_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.wake();
        }
    }
}

/// The copiers on this host, for the agent of a node.
#[pin_data]
pub(crate) struct Keeper {
    origin: Origin,
    size: ChunkSize,
    stopping: AtomicBool,
    #[pin]
    state: IrqLock<State>,
    queue: WorkQueue,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Keeper { self.work }
}

impl Keeper {
    /// Nothing is asked for. May sleep.
    pub(crate) fn new(origin: Origin, size: ChunkSize, agent: Arc<Agent>) -> Result<Arc<Self>> {
        let state = State {
            waiting: KVVec::with_capacity(REQUESTS, GFP_KERNEL)?,
            spare: KVVec::with_capacity(REQUESTS, GFP_KERNEL)?,
            done: KVVec::from_elem(0, REQUESTS, GFP_KERNEL)?,
            first_done: 0,
            count_done: 0,
            open: 0,
            agent: Some(agent),
        };
        Arc::pin_init(
            try_pin_init!(Self {
                origin,
                size,
                stopping: AtomicBool::new(false),
                state <- new_irq_lock!(state, c"holey_keeper"),
                queue: WorkQueue::new(c"holey_keeper")?,
                work <- new_work!("holey_keeper"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Whether a range can be on a volume at all.
    pub(crate) fn suits(&self, range: Range) -> bool {
        range.end() <= u64::MAX >> (self.size.shift() + 9)
    }

    /// Takes a request; false if there is no room. The caller kicks the worker.
    pub(crate) fn keep(&self, number: u64, range: Range) -> bool {
        let mut state = self.state.lock();
        if state.open >= REQUESTS {
            return false;
        }
        let taken = state
            .waiting
            .push_within_capacity(Request { number, range })
            .is_ok();
        state.open += usize::from(taken);
        taken
    }

    /// Makes the worker look. Never sleeps.
    pub(crate) fn kick(this: &Arc<Self>) {
        // If it is queued already, it will look after this.
        let _ = this.queue.enqueue(this.clone());
    }

    /// Gives up what is asked for. Sleeps.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.origin.nudge();
        self.queue.drain();
        let agent = self.state.lock().agent.take();
        drop(agent);
    }

    /// The answers, as long as `accept` takes them.
    pub(crate) fn fetch(&self, mut accept: impl FnMut(Event) -> bool) {
        let mut state = self.state.lock();
        let was_full = state.open >= REQUESTS;
        while state.count_done != 0 {
            let number = state.done.get(state.first_done).copied();
            if !accept(Event::Kept {
                number: number.unwrap_or_default(),
            }) {
                break;
            }
            state.first_done = (state.first_done + 1) % REQUESTS;
            state.count_done -= 1;
            state.open = state.open.saturating_sub(1);
        }
        if was_full && state.open < REQUESTS {
            state.wake_agent();
        }
    }

    /// What the agent can do without waiting.
    pub(crate) fn ready(&self) -> Ready {
        let state = self.state.lock();
        Ready {
            to_read: state.count_done != 0,
            to_write: state.open < REQUESTS,
        }
    }

    /// Has the ranges of some requests kept, and answers each. Gives up when it is to stop. Sleeps.
    fn fulfil(&self, requests: &[Request]) {
        let mut begun = 0;
        for (n, request) in requests.iter().enumerate() {
            let mut pieces = self.pieces(request);
            if pieces.all(|(start, sectors)| self.goes_on() && self.origin.prepare(start, sectors))
            {
                continue;
            }
            // As many copies as can be are under way.
            if !self.await_all(requests.get(begun..=n).unwrap_or_default()) {
                return;
            }
            begun = n + 1;
        }
        self.await_all(requests.get(begun..).unwrap_or_default());
    }

    fn await_all(&self, requests: &[Request]) -> bool {
        let stop = || !self.goes_on();
        let pieces = requests.iter().flat_map(|request| self.pieces(request));
        for (start, sectors) in pieces.take_while(|_| self.goes_on()) {
            self.origin.await_copies(start, sectors);
        }
        requests.iter().all(|request| {
            let mut pieces = self.pieces(request);
            let kept = pieces
                .all(|(start, sectors)| self.goes_on() && self.origin.secure(start, sectors, stop));
            if kept {
                self.answer(request.number);
            }
            kept
        })
    }

    fn goes_on(&self) -> bool {
        !self.stopping.load(Ordering::Acquire)
    }

    /// The range of a request, in sectors: start and length of each piece.
    fn pieces(&self, request: &Request) -> impl Iterator<Item = (u64, u64)> {
        let size = self.size;
        let slices = request.range.slices(PIECE);
        slices.map(move |range| (size.sector_of(range.first), size.sector_of(range.len)))
    }

    fn answer(&self, number: u64) {
        let mut state = self.state.lock();
        let at = (state.first_done + state.count_done) % REQUESTS;
        if let Some(place) = state.done.get_mut(at) {
            // There is room for all that are open.
            *place = number;
            state.count_done += 1;
        }
        state.wake_agent();
    }
}

impl WorkItem for Keeper {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let _memory = without_io(|| this.origin.copies().keep_memory());
        while this.goes_on() {
            let mut state = this.state.lock();
            let spare = core::mem::take(&mut state.spare);
            let mut requests = core::mem::replace(&mut state.waiting, spare);
            drop(state);
            let none = requests.is_empty();
            without_io(|| this.fulfil(&requests));
            requests.clear();
            this.state.lock().spare = requests;
            if none {
                return;
            }
        }
    }
}
