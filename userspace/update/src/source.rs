// SPDX-License-Identifier: GPL-2.0-or-later

//! Where published files are, and the next place if one fails.

use crate::error::chain;
use crate::error::Error;
use crate::error::Result;
use dmholey_cow::disk;
use dmholey_cow::disk::Access;
use dmholey_cow::Device;
use dmholey_cow::Disk;
use dmholey_cow::Kind;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// A place rests this long when it has failed for the first time, and twice as long each time after that.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest rest, unless the place itself asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Bytes of a file that are read at a time.
const PIECE: u64 = 1 << 20;
/// A signal is noticed after this time.
const NAP: Duration = Duration::from_millis(100);

/// What a place says when it is asked for a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// There is none of that name.
    Absent,
    /// It is what it was when the place gave the tag.
    Same,
    /// The file.
    File {
        /// All of it.
        bytes: Vec<u8>,
        /// To be shown when it is asked for again.
        tag: Option<String>,
    },
}

/// What takes the pieces of a file.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// A place that has published files.
pub trait Source: Debug + Send + Sync {
    /// Its name for messages.
    fn name(&self) -> String;

    /// Exactly `len` bytes of a file from `offset` on, given to `sink` piece by piece as they arrive.
    fn read(&self, file: &str, offset: u64, len: u64, sink: Sink<'_>) -> Result<()>;

    /// All of a file, which has at most `max` bytes. With the tag that came with it before, it comes only if it
    /// is another one now.
    fn get(&self, file: &str, max: u64, tag: Option<&str>) -> Result<Got>;
}

/// A folder, such as one that is mounted.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Source for Folder {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn read(&self, file: &str, mut offset: u64, len: u64, sink: Sink<'_>) -> Result<()> {
        let file = Device::open(&self.0.join(file), Access::Read)?;
        let end = offset.saturating_add(len);
        if end > file.size() {
            let why = format!("has {} bytes only", file.size());
            return Err(Error::broken(file.name(), why));
        }
        let mut piece = Vec::new();
        while offset < end {
            let len = PIECE.min(end - offset);
            piece.resize(usize::try_from(len).unwrap_or(0), 0);
            disk::read(&file, offset, &mut piece)?;
            sink(&piece)?;
            offset += len;
        }
        Ok(())
    }

    fn get(&self, file: &str, max: u64, _tag: Option<&str>) -> Result<Got> {
        let path = self.0.join(file);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Got::Absent),
            Err(e) => return Err(Error::path("open", &path, e)),
        };
        let mut bytes = Vec::new();
        let read = file.take(max.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|e| Error::path("read", &path, e))?;
        if bytes.len() as u64 > max {
            let why = format!("has more than {max} bytes");
            return Err(Error::broken(path.display(), why));
        }
        Ok(Got::File { bytes, tag: None })
    }
}

/// Several places that should have the same files. The one that worked last is asked first; one that fails
/// for a reason that may pass rests for a while, longer each time.
#[derive(Debug)]
pub struct Mirrors {
    all: Vec<Mirror>,
    first: AtomicUsize,
    patience: Duration,
    pause: Duration,
    stop: fn() -> bool,
    tell: fn(&str),
}

/// Why a place has failed.
#[derive(Debug)]
struct Reason {
    error: Error,
    /// Whether it may work later.
    passes: bool,
    told: bool,
}

#[derive(Debug)]
struct Mirror {
    source: Arc<dyn Source>,
    rest: Mutex<Rest>,
}

/// How often a place has failed since it worked, and until when it is left alone.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
}

impl Mirrors {
    /// These places, the first of which is asked first. When all have failed that is the end of it.
    pub fn new(all: Vec<Arc<dyn Source>>) -> Self {
        let mirror = |source| Mirror {
            source,
            rest: Mutex::default(),
        };
        Self {
            all: all.into_iter().map(mirror).collect(),
            first: AtomicUsize::new(0),
            patience: Duration::ZERO,
            pause: PAUSE,
            stop: || false,
            tell: |_| {},
        }
    }

    /// When all have failed, waits and asks again until `patience` has passed, or until `stop` says so.
    pub fn patient(mut self, patience: Duration, stop: fn() -> bool) -> Self {
        self.patience = patience;
        self.stop = stop;
        self
    }

    /// Tells why a place was passed over, if things went on without it.
    pub fn telling(mut self, tell: fn(&str)) -> Self {
        self.tell = tell;
        self
    }

    /// Reads a part of a file and makes something of it. A place that does not have it, and one whose bytes
    /// `check` refuses, is passed over for the next one. Fails when all have failed, with all reasons.
    pub fn read<T>(
        &self,
        file: &str,
        offset: u64,
        len: usize,
        check: impl Fn(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<T> {
        self.ask(file, |source| {
            let mut bytes = Vec::with_capacity(len);
            source.read(file, offset, len as u64, &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            check(&bytes).map_err(|why| Error::broken(file, why))
        })
    }

    /// Does something with a place, and with the next one if that fails.
    pub(crate) fn ask<T>(
        &self,
        file: &str,
        work: impl Fn(&Arc<dyn Source>) -> Result<T>,
    ) -> Result<T> {
        let end = Instant::now() + self.patience;
        let mut reasons: Vec<Option<Reason>> = self.all.iter().map(|_| None).collect();
        loop {
            let first = self.first.load(Ordering::Relaxed);
            let turn = self.all.iter().enumerate().cycle().skip(first);
            for (number, mirror) in turn.take(self.all.len()) {
                let Some(reason) = reasons.get_mut(number) else {
                    continue;
                };
                // Nobody is passed over without having been asked once.
                if reason
                    .as_ref()
                    .is_some_and(|reason| !reason.passes || !mirror.is_due())
                {
                    continue;
                }
                match work(&mirror.source) {
                    Ok(value) => {
                        self.first.store(number, Ordering::Relaxed);
                        mirror.works();
                        self.tell(&mut reasons);
                        return Ok(value);
                    }
                    Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                    Err(error) => {
                        let after = error.later_after();
                        if let Some(after) = after {
                            mirror.fails(self.pause, after);
                        }
                        *reason = Some(Reason {
                            error,
                            passes: after.is_some(),
                            told: false,
                        });
                    }
                }
            }
            let passing = reasons.iter().zip(&self.all);
            let passing = passing.filter(|(reason, _)| reason.as_ref().is_some_and(|r| r.passes));
            match passing.filter_map(|(_, mirror)| mirror.rest().until).min() {
                Some(next) if next <= end => {
                    self.tell(&mut reasons);
                    self.wait(next)?;
                }
                _ => return Err(self.unavailable(file, &reasons)),
            }
        }
    }

    fn tell(&self, reasons: &mut [Option<Reason>]) {
        for (mirror, reason) in self.all.iter().zip(reasons) {
            let Some(reason) = reason.as_mut().filter(|reason| !reason.told) else {
                continue;
            };
            reason.told = true;
            (self.tell)(&format!(
                "{}: {}",
                mirror.source.name(),
                chain(&reason.error)
            ));
        }
    }

    fn wait(&self, until: Instant) -> Result<()> {
        loop {
            if (self.stop)() {
                return Err(dmholey_cow::Error::Interrupted.into());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    fn unavailable(&self, file: &str, reasons: &[Option<Reason>]) -> Error {
        let said = self.all.iter().zip(reasons).filter_map(|(mirror, reason)| {
            let error = &reason.as_ref()?.error;
            Some(format!("{}: {}", mirror.source.name(), chain(error)))
        });
        let mut said = said.collect::<Vec<_>>().join("; ");
        if said.is_empty() {
            "none is named".clone_into(&mut said);
        }
        Error::Unavailable {
            file: file.to_owned(),
            why: said,
        }
    }
}

impl Mirror {
    fn rest(&self) -> std::sync::MutexGuard<'_, Rest> {
        // Nothing that holds it can fail halfway.
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self) -> bool {
        let until = self.rest().until;
        until.is_none_or(|until| until <= Instant::now())
    }

    fn works(&self) {
        *self.rest() = Rest::default();
    }

    /// Rests for twice as long as the last time, or as long as the place has asked for.
    fn fails(&self, first: Duration, asked: Option<Duration>) {
        let mut rest = self.rest();
        let pause = first.saturating_mul(1 << rest.failures.min(16));
        let pause = pause.min(MAX_PAUSE).max(asked.unwrap_or_default());
        rest.failures += 1;
        rest.until = Instant::now().checked_add(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    /// A place that fails so often before it works.
    #[derive(Debug)]
    struct Weak {
        name: &'static str,
        fails: u32,
        passing: bool,
        asked: AtomicU32,
    }

    impl Weak {
        fn new(name: &'static str, fails: u32, passing: bool) -> Arc<Self> {
            Arc::new(Self {
                name,
                fails,
                passing,
                asked: AtomicU32::new(0),
            })
        }

        fn asked(&self) -> u32 {
            self.asked.load(Ordering::Relaxed)
        }
    }

    impl Source for Weak {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn read(&self, file: &str, _: u64, len: u64, sink: Sink<'_>) -> Result<()> {
            if self.asked.fetch_add(1, Ordering::Relaxed) >= self.fails {
                return sink(&vec![0; usize::try_from(len).unwrap()]);
            }
            Err(if self.passing {
                Error::later(file, "is busy", None)
            } else {
                Error::broken(file, "is damaged")
            })
        }

        fn get(&self, _: &str, _: u64, _: Option<&str>) -> Result<Got> {
            Ok(Got::Absent)
        }
    }

    fn mirrors(all: &[&Arc<Weak>]) -> Mirrors {
        let all = all.iter().map(|&weak| Arc::clone(weak) as Arc<dyn Source>);
        let mut mirrors = Mirrors::new(all.collect());
        mirrors.pause = Duration::from_millis(2);
        mirrors
    }

    fn read(mirrors: &Mirrors) -> Result<usize> {
        mirrors.read("file", 0, 7, |bytes| Ok(bytes.len()))
    }

    #[test]
    fn the_one_that_worked_is_asked_first() {
        let (a, b) = (Weak::new("a", 1, false), Weak::new("b", 0, false));
        let mirrors = mirrors(&[&a, &b]);
        assert_eq!(read(&mirrors).unwrap(), 7);
        assert_eq!(read(&mirrors).unwrap(), 7);
        assert_eq!((a.asked(), b.asked()), (1, 2));
    }

    #[test]
    fn what_may_pass_is_waited_for() {
        let (a, b) = (Weak::new("a", 5, true), Weak::new("b", 100, false));
        let mirrors = mirrors(&[&a, &b]).patient(Duration::from_secs(60), || false);
        assert_eq!(read(&mirrors).unwrap(), 7);
        // What will not pass is not asked again.
        assert_eq!((a.asked(), b.asked()), (6, 1));
    }

    #[test]
    fn patience_ends() {
        let a = Weak::new("a", 100, true);
        let impatient = mirrors(&[&a]);
        let error = read(&impatient).unwrap_err();
        assert!(error.to_string().contains("a: file: is busy"), "{error}");
        assert_eq!(a.asked(), 1);
        // It rests now, and is asked once all the same.
        read(&impatient).unwrap_err();
        assert_eq!(a.asked(), 2);
        let stopped = mirrors(&[&a]).patient(Duration::from_secs(60), || true);
        assert_eq!(read(&stopped).unwrap_err().kind(), Kind::Interrupted);
        let error = read(&mirrors(&[])).unwrap_err();
        assert!(error.to_string().contains("none is named"), "{error}");
    }

    #[test]
    fn rests_get_longer() {
        let mirror = Mirror {
            source: Weak::new("a", 0, true),
            rest: Mutex::default(),
        };
        let mut last = Duration::ZERO;
        for failures in 1..=20 {
            let begin = Instant::now();
            mirror.fails(PAUSE, None);
            let pause = mirror.rest().until.unwrap() - begin;
            assert!(pause >= last || pause >= MAX_PAUSE, "{failures}: {pause:?}");
            assert!(pause <= MAX_PAUSE + PAUSE);
            last = pause;
        }
        mirror.fails(PAUSE, Some(MAX_PAUSE * 2));
        assert!(mirror.rest().until.unwrap() > Instant::now() + MAX_PAUSE);
        mirror.works();
        assert!(mirror.is_due());
    }
}
