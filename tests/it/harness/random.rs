//! Chance that can be had again: a seed, printed, gives the same run.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The generator of a test with chance in it: `P2PDFS_TEST_SEED`, or else a new seed; printed,
    /// so that a failure names it.
    pub fn announced() -> Random {
        let given = std::env::var("P2PDFS_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
            u64::from_be_bytes(bytes)
        });
        eprintln!("seed: P2PDFS_TEST_SEED={seed}");
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        // From a dependency, which is optimized in test builds too.
        let mut stream = blake3::Hasher::new();
        stream.update(&self.next().to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }
}

/// `count` bytes that differ from those of every other seed.
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    Random::new(seed).bytes(count)
}
