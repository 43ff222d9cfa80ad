//! The one grant rule: holders, a queue and a capacity; as many from the head of the queue as fit.
//!
//! A mutex has one permit, and everybody wants one. The rule is the same for more.

/// What a waiter at the head may be given, and how many waiters that serves.
///
/// `free` permits are given to the head of the queue as long as the *next in line* fits. Nobody is overtaken: a large
/// request at the head waits, and everything behind it waits with it.
#[must_use]
pub fn served(free: u32, wanted: impl IntoIterator<Item = u32>) -> usize {
    let mut left = free;
    wanted
        .into_iter()
        .take_while(|&want| match left.checked_sub(want) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::served;
    use proptest::prelude::*;

    #[test]
    fn a_large_request_at_the_head_is_not_overtaken() {
        assert_eq!(served(3, [4, 1, 1]), 0);
        assert_eq!(served(3, [2, 2, 1]), 1);
        assert_eq!(served(3, [1, 1, 1, 1]), 3);
        assert_eq!(served(0, [1]), 0);
    }

    proptest! {
        #[test]
        fn never_more_than_there_is_and_never_less_than_fits(free in 0u32..50, wanted in prop::collection::vec(1u32..20, 0..20)) {
            let n = served(free, wanted.iter().copied());
            let given: u32 = wanted[..n].iter().sum();
            prop_assert!(given <= free);
            if let Some(next) = wanted.get(n) {
                prop_assert!(given + next > free);
            }
        }
    }
}
