// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes a script that shows a difference as short and simple as can be.

use crate::model::Model;
use crate::op::Op;
use crate::op::Span;
use crate::script::Script;

/// Leaves out operations that do not fit.
pub(crate) fn tidy(script: &Script) -> Script {
    let mut model = Model::new(&script.sizes);
    let fits = |op: &&Op| model.apply(op).is_some();
    let ops = script.ops.iter().filter(fits).cloned().collect();
    Script {
        sizes: script.sizes.clone(),
        ops,
    }
}

/// Shrinks a script as long as `fails` says that the result still shows the difference, and until it
/// says that there was enough of it by returning `None`.
pub(crate) fn shrink(script: &Script, mut fails: impl FnMut(&Script) -> Option<bool>) -> Script {
    let mut best = tidy(script);
    loop {
        let before = best.clone();
        let enough = drop_ops(&mut best, &mut fails)
            .and_then(|()| simplify_ops(&mut best, &mut fails))
            .and_then(|()| shrink_volumes(&mut best, &mut fails))
            .is_none();
        if enough || best == before {
            return best;
        }
    }
}

/// Takes a candidate if it is another one and fails, too.
fn attempt(
    best: &mut Script,
    candidate: &Script,
    fails: &mut impl FnMut(&Script) -> Option<bool>,
) -> Option<bool> {
    let candidate = tidy(candidate);
    if candidate == *best {
        return Some(false);
    }
    let failed = fails(&candidate)?;
    if failed {
        *best = candidate;
    }
    Some(failed)
}

/// Leaves out runs of operations, long ones first.
fn drop_ops(best: &mut Script, fails: &mut impl FnMut(&Script) -> Option<bool>) -> Option<()> {
    let mut len = best.ops.len().next_power_of_two() / 2;
    while len > 0 {
        let mut end = best.ops.len();
        while end > 0 {
            let start = end.saturating_sub(len);
            let mut candidate = best.clone();
            candidate.ops.drain(start..end);
            attempt(best, &candidate, fails)?;
            end = start.min(best.ops.len());
        }
        len /= 2;
    }
    Some(())
}

/// Replaces operations by simpler ones.
fn simplify_ops(best: &mut Script, fails: &mut impl FnMut(&Script) -> Option<bool>) -> Option<()> {
    let mut at = 0;
    while at < best.ops.len() {
        let mut again = true;
        while again && at < best.ops.len() {
            again = false;
            for simple in simpler(&best.ops[at]) {
                let mut candidate = best.clone();
                candidate.ops[at] = simple;
                if attempt(best, &candidate, fails)? {
                    again = true;
                    break;
                }
            }
        }
        at += 1;
    }
    Some(())
}

fn shrink_volumes(
    best: &mut Script,
    fails: &mut impl FnMut(&Script) -> Option<bool>,
) -> Option<()> {
    for volume in 0..=best.sizes.cows.len() {
        loop {
            let mut candidate = best.clone();
            let size = match volume {
                0 => &mut candidate.sizes.origin,
                n => &mut candidate.sizes.cows[n - 1],
            };
            let least = if volume == 0 { 1 } else { 24 };
            if *size <= least {
                break;
            }
            *size = (*size / 2).max(least);
            if !attempt(best, &candidate, fails)? {
                break;
            }
        }
    }
    Some(())
}

/// Operations that are simpler than this one, the simplest first.
fn simpler(op: &Op) -> Vec<Op> {
    match op {
        Op::Write { span, fua } => {
            let plain = fua.then_some(Op::Write {
                span: *span,
                fua: false,
            });
            let smaller = smaller(*span);
            plain
                .into_iter()
                .chain(
                    smaller
                        .into_iter()
                        .map(|span| Op::Write { span, fua: *fua }),
                )
                .collect()
        }
        Op::Zero(span) => [Op::Write {
            span: *span,
            fua: false,
        }]
        .into_iter()
        .chain(smaller(*span).into_iter().map(Op::Zero))
        .collect(),
        Op::Read(span) => smaller(*span).into_iter().map(Op::Read).collect(),
        Op::Discard(span) => smaller(*span).into_iter().map(Op::Discard).collect(),
        Op::Burst(spans) => {
            let single = spans.iter().map(|&span| Op::Write { span, fua: false });
            let fewer = (0..spans.len()).filter(|_| spans.len() > 1).map(|without| {
                let mut fewer = spans.clone();
                fewer.remove(without);
                Op::Burst(fewer)
            });
            let shorter = (0..spans.len()).flat_map(|n| {
                smaller(spans[n]).into_iter().map(move |span| {
                    let mut spans = spans.clone();
                    spans[n] = span;
                    Op::Burst(spans)
                })
            });
            single.chain(fewer).chain(shorter).collect()
        }
        Op::Suspend { dev, noflush: true } => vec![Op::Suspend {
            dev: *dev,
            noflush: false,
        }],
        _ => Vec::new(),
    }
}

fn smaller(span: Span) -> Vec<Span> {
    let Span { sector, count, .. } = span;
    let all = [
        Span { sector: 0, ..span },
        Span { count: 1, ..span },
        Span {
            count: count / 2,
            ..span
        },
        Span {
            sector: sector + count / 2,
            count: count - count / 2,
            ..span
        },
        Span {
            count: count - 1,
            ..span
        },
        Span {
            sector: sector / 8 * 8,
            ..span
        },
        Span {
            sector: sector / 2,
            ..span
        },
    ];
    // Only what is smaller: it has to come to an end.
    let is_smaller =
        |other: &Span| other.count > 0 && (other.count, other.sector) < (count, sector);
    all.into_iter().filter(is_smaller).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;
    use crate::op::Dev;

    /// A long write to a snapshot after any suspend of it.
    fn has_fault(script: &Script) -> bool {
        let suspended = |op: &Op| {
            matches!(
                op,
                Op::Suspend {
                    dev: Dev::Snapshot(_),
                    ..
                }
            )
        };
        let written = |op: &Op| matches!(op, Op::Write { span: Span { dev: Dev::Snapshot(_), count, .. }, .. } if *count >= 5);
        let from = script.ops.iter().position(suspended);
        from.is_some_and(|from| script.ops[from..].iter().any(written))
    }

    #[test]
    fn faults_are_shrunk_to_what_they_need() {
        let mut found = 0;
        for number in 0..100 {
            let script = generate(3, number, 40);
            if !has_fault(&script) {
                continue;
            }
            found += 1;
            let small = shrink(&script, |script| Some(has_fault(script)));
            assert!(has_fault(&small));
            let text = small.to_string();
            assert!((4..=5).contains(&small.ops.len()), "{text}");
            assert!(text.contains(" 0 5\n"), "{text}");
            assert!(!text.contains("noflush") && !text.contains("fua"), "{text}");
        }
        assert!(found > 10);
    }

    #[test]
    fn shrinking_ends_when_told_to() {
        let script = generate(3, 1, 40);
        let mut left = 5;
        let small = shrink(&script, |_| {
            left -= 1;
            (left > 0).then_some(false)
        });
        assert_eq!(small, tidy(&script));
        assert_eq!(left, 0);
    }
}
