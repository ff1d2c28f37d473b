//! Random numbers for tests: the same programs on every machine.

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    #[allow(dead_code, reason = "not every test that includes this file calls it")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
