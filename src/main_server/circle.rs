//! A walk through all chunks by serial, page by page, that may begin anywhere: it ends where it
//! began. So one that begins anew again and again, since the nodes change again and again, still
//! comes to every chunk.

use crate::ids::Serial;

/// Where a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Circle {
    /// The last chunk that was passed; `None` before the first.
    after: Option<Serial>,
    /// Behind which chunk it began.
    began: Option<Serial>,
    has_turned: bool,
}

impl Circle {
    /// The walk begins anew where it is now.
    pub fn begin(&mut self) {
        (self.began, self.has_turned) = (self.after, false);
    }

    /// Where the next page begins.
    pub fn after(&self) -> Option<Serial> {
        self.after
    }

    /// Takes in the serials of a page that was read there, of at most `limit`. Returns how many of
    /// them are of this walk, and whether it is at its end.
    pub fn pass(&mut self, page: &[Serial], limit: usize) -> (usize, bool) {
        let of_walk = match (self.has_turned, self.began) {
            (true, Some(began)) => page.partition_point(|serial| *serial <= began),
            (true, None) => 0,
            (false, _) => page.len(),
        };
        let is_cut = of_walk < page.len();
        if let Some(last) = page[..of_walk].last() {
            self.after = Some(*last);
        }
        if is_cut || self.has_turned && page.len() < limit {
            return (of_walk, true);
        }
        if page.len() < limit {
            (self.after, self.has_turned) = (None, true);
            return (of_walk, self.began.is_none());
        }
        (of_walk, self.has_turned && self.after >= self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks to the end, and returns what was passed.
    fn walk(circle: &mut Circle, all: &[Serial], limit: usize) -> Vec<Serial> {
        let mut passed = Vec::new();
        loop {
            let (of_walk, is_end) = step(circle, all, limit);
            passed.extend(of_walk);
            if is_end {
                return passed;
            }
        }
    }

    fn step(circle: &mut Circle, all: &[Serial], limit: usize) -> (Vec<Serial>, bool) {
        let behind = all.iter().filter(|serial| Some(**serial) > circle.after());
        let page: Vec<Serial> = behind.copied().take(limit).collect();
        let (count, is_end) = circle.pass(&page, limit);
        (page[..count].to_vec(), is_end)
    }

    proptest! {
        #[test]
        fn a_walk_passes_every_chunk_once_wherever_it_begins(
            chunks in 0u64..40, limit in 1usize..8, steps in 0usize..12,
        ) {
            let all: Vec<Serial> = (0..chunks).map(|n| Serial(n * 3)).collect();
            let mut circle = Circle::default();
            circle.begin();
            for _ in 0..steps {
                step(&mut circle, &all, limit);
            }
            circle.begin();
            let mut passed = walk(&mut circle, &all, limit);
            passed.sort();
            prop_assert_eq!(passed, all);
        }
    }
}
