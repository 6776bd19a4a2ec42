// SPDX-License-Identifier: GPL-2.0

//! Tests of what a target and its agent say to each other.

use super::*;
use proptest::prelude::*;

#[test]
fn orders_and_events_are_read_as_written() {
    let range = Range {
        first: u64::MAX - 8,
        len: 8,
    };
    let bind = |role| Order::Bind {
        role,
        major: 253,
        minor: 0xf_ffff,
        chunk: ChunkSize::new(8).unwrap(),
    };
    let (number, epoch) = (7, u64::MAX);
    for order in [
        bind(Role::Writer),
        bind(Role::Copier),
        Order::Keep { number, range },
        Order::Stable { epoch, range },
        Order::Epoch { epoch },
    ] {
        assert_eq!(Order::decode(&order.encode()), Ok(order));
    }
    for event in [
        Event::Need { epoch, range },
        Event::Drained { epoch },
        Event::Fenced { epoch },
        Event::Kept { number },
    ] {
        assert_eq!(Event::decode(&event.encode()), Ok(event));
    }
}

#[test]
fn what_is_no_record_is_refused() {
    assert_eq!(Order::decode(&[]), Err(RecordError::Length(0)));
    assert_eq!(Order::decode(&[0; 25]), Err(RecordError::Length(25)));
    assert_eq!(Order::decode(&[0; 24]), Err(RecordError::Kind(0)));
    let mut bind = Order::Bind {
        role: Role::Writer,
        major: 1,
        minor: 2,
        chunk: ChunkSize::new(8).unwrap(),
    }
    .encode();
    bind[16] = 7;
    assert_eq!(Order::decode(&bind), Err(RecordError::Chunk(7)));
    bind[4] = 9;
    assert_eq!(Order::decode(&bind), Err(RecordError::Version(9)));
    let range = Range {
        first: u64::MAX,
        len: 1,
    };
    let keep = Order::Keep { number: 0, range };
    assert_eq!(
        Order::decode(&keep.encode()),
        Err(RecordError::Range(range))
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
        if let Ok(order) = Order::decode(&bytes) {
            prop_assert_eq!(Order::decode(&order.encode()), Ok(order));
        }
        if let Ok(event) = Event::decode(&bytes) {
            prop_assert_eq!(Event::decode(&event.encode()), Ok(event));
        }
    }
}
