//! The operations that the benchmark replays.

use std::collections::VecDeque;

#[derive(Clone, Copy)]
pub enum Step {
    Allocate { block: u32, size: u64 },
    Free { block: u32 },
}

pub struct Workload {
    pub name: &'static str,
    pub steps: Vec<Step>,
    /// Block numbers are below this.
    pub blocks: usize,
    pub peak_live: u64,
}

/// Prompt and answer of one request, in tokens.
pub type Lengths = (u64, u64);

/// Records steps, numbers blocks, and counts live bytes.
#[derive(Default)]
struct Recorder {
    steps: Vec<Step>,
    sizes: Vec<u64>,
    spare: Vec<u32>,
    live: u64,
    peak: u64,
}

impl Recorder {
    fn allocate(&mut self, size: u64) -> u32 {
        let block = self.spare.pop().unwrap_or_else(|| {
            self.sizes.push(0);
            self.sizes.len() as u32 - 1
        });
        self.sizes[block as usize] = size;
        self.live += size;
        self.peak = self.peak.max(self.live);
        self.steps.push(Step::Allocate { block, size });
        block
    }

    fn free(&mut self, block: u32) {
        self.live -= self.sizes[block as usize];
        self.spare.push(block);
        self.steps.push(Step::Free { block });
    }

    fn finish(self, name: &'static str) -> Workload {
        Workload { name, steps: self.steps, blocks: self.sizes.len(), peak_live: self.peak }
    }
}

/// splitmix64.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Returns a number in 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Returns `count` requests, with prompts and answers distributed as in Azure's code trace of 2023 (8,819 requests; the
/// two are uncorrelated there: r = 0.001). Between its 33 quantiles, lengths are linear.
pub fn lengths(count: usize) -> Vec<Lengths> {
    const PROMPTS: [u64; 33] = [
        3, 51, 90, 137, 185, 246, 348, 462, 578, 700, 825, 915, 1016, 1093, 1196, 1342, 1469, 1605, 1734, 1885, 2048,
        2195, 2371, 2539, 2745, 2982, 3330, 3775, 4434, 5510, 6499, 7435, 7437,
    ];
    const ANSWERS: [u64; 33] = [
        6, 6, 6, 7, 7, 8, 8, 9, 9, 9, 10, 10, 11, 11, 12, 12, 13, 14, 15, 15, 16, 18, 19, 21, 24, 27, 31, 37, 46, 58,
        77, 126, 1899,
    ];
    let mut seeded = Seeded(1);
    let mut draw = |quantiles: &[u64; 33]| {
        let at = seeded.unit() * 32.0;
        let (low, high) = (quantiles[at as usize] as f64, quantiles[at as usize + 1] as f64);
        (low + (high - low) * at.fract()) as u64
    };
    (0..count).map(|_| (draw(&PROMPTS), draw(&ANSWERS))).collect()
}

/// Reads the second and third column of a CSV.
pub fn read_lengths(path: &str) -> std::io::Result<Vec<Lengths>> {
    let column = |line: &str, nth: usize| line.split(',').nth(nth)?.trim().parse().ok();
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().filter_map(|line| Some((column(line, 1)?, column(line, 2)?))).collect())
}

/// One request in service.
struct Request {
    own: [u32; 3],
    pages: Vec<u32>,
    tokens: u64,
    left: u64,
}

/// Serves requests in order, 8 at a time, a token each in turn, with a model like Qwen2-1.5B: 1536 wide, 151,936 words,
/// 28 layers of 2 key-value heads of 128 in half precision. A request holds its token ids, its float32 embeddings and
/// its logits to its end, and cache pages of 16 tokens whose number grows while it decodes.
pub fn serve(lengths: &[Lengths]) -> Workload {
    const AT_A_TIME: usize = 8;
    const EMBEDDING: u64 = 1536 * 4;
    const LOGITS: u64 = 151_936 * 4;
    const PAGE_TOKENS: u64 = 16;
    const PAGE: u64 = PAGE_TOKENS * 28 * 2 * 2 * 128 * 2;

    let mut record = Recorder::default();
    let mut waiting: VecDeque<Lengths> = lengths.iter().copied().collect();
    let mut serving: Vec<Request> = Vec::new();
    while !waiting.is_empty() || !serving.is_empty() {
        while serving.len() < AT_A_TIME {
            let Some((prompt, answer)) = waiting.pop_front() else { break };
            let prompt = prompt.max(1);
            let ids = record.allocate(prompt * 4);
            let embeddings = record.allocate(prompt * EMBEDDING);
            let pages = (0..prompt.div_ceil(PAGE_TOKENS)).map(|_| record.allocate(PAGE)).collect();
            let logits = record.allocate(LOGITS);
            serving.push(Request { own: [ids, embeddings, logits], pages, tokens: prompt, left: answer });
        }
        for request in &mut serving {
            if request.tokens % PAGE_TOKENS == 0 {
                request.pages.push(record.allocate(PAGE));
            }
            request.tokens += 1;
            request.left = request.left.saturating_sub(1);
        }
        let mut at = 0;
        while at < serving.len() {
            if serving[at].left > 0 {
                at += 1;
                continue;
            }
            let done = serving.swap_remove(at);
            done.own.into_iter().chain(done.pages).for_each(|block| record.free(block));
        }
    }
    record.finish("trace")
}

/// Makes `count` operations on 40,000 places, half of them full in the long run, so 20,000 live. Each frees a random
/// place if it is full and fills it if it is empty, with sizes log-uniform in 64 B..1 MiB.
pub fn random(count: usize, seed: u64) -> Workload {
    let mut record = Recorder::default();
    let mut seeded = Seeded(seed);
    let mut places: Vec<Option<u32>> = vec![None; 40_000];
    while record.steps.len() < count {
        let place = (seeded.next() % places.len() as u64) as usize;
        match places[place].take() {
            Some(block) => record.free(block),
            None => {
                let size = (64.0 * 16384f64.powf(seeded.unit())) as u64;
                places[place] = Some(record.allocate(size));
            }
        }
    }
    record.finish("random")
}
