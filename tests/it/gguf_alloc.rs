//! Any bytes: the parser does not panic, and what it allocates is bounded by the size of the file.
//!
//! A binary of its own, because it counts every allocation of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::LazyLock;

use oxwarp::gguf::{GgmlType, Gguf, Value};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;

#[expect(dead_code, reason = "shared with the tests of single cases")]
#[path = "gguf/mutate.rs"]
mod mutate;

use mutate::{Raw, U8, entry, tensor};

/// Counts what the current thread has allocated.
struct Counting;

thread_local! {
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(n_bytes: i64) {
    let live = LIVE_BYTES.get() + n_bytes;
    LIVE_BYTES.set(live);
    PEAK_BYTES.set(PEAK_BYTES.get().max(live));
}

// SAFETY: every call is handed on to the system's allocator with the caller's own arguments; counting touches no memory
// but two cells of the thread, which need no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise for `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise for `pointer` and `layout`, which came from `System` by way of `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were allocated at one time while `f` ran, beyond those before it.
fn peak_bytes<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = LIVE_BYTES.get();
    PEAK_BYTES.set(before);
    let result = f();
    (result, (PEAK_BYTES.get() - before) as u64)
}

/// What the parser may allocate for a file of `n_bytes`: four times that, and the text of one error.
fn allowed_bytes(n_bytes: usize) -> u64 {
    4 * n_bytes as u64 + 2048
}

/// Parses, uses all that parsing has let through, and returns whether it was let through.
fn parse_and_use(bytes: &[u8]) -> bool {
    let (parsed, peak) = peak_bytes(|| Gguf::parse(bytes));
    assert!(peak <= allowed_bytes(bytes.len()), "{peak} bytes allocated for a file of {}", bytes.len());
    let gguf = match parsed {
        Ok(gguf) => gguf,
        Err(error) => {
            let (text, peak) = peak_bytes(|| error.to_string());
            assert!(!text.is_empty() && peak <= 4096, "{peak} bytes for: {text}");
            return false;
        }
    };
    for (key, value) in gguf.metadata() {
        // The very value: a NaN would not be equal to itself.
        assert!(gguf.get(key).is_some_and(|found| std::ptr::eq(found, value)), "{key:?}: {value:?}");
        let (_, peak) = peak_bytes(|| {
            let _ = (
                gguf.opt_u32(key),
                gguf.opt_f32(key),
                gguf.opt_str(key),
                gguf.opt_bool(key),
                gguf.opt_array(key),
            );
            let _ = (
                gguf.opt_int_array(key),
                gguf.opt_f32_array(key),
                gguf.opt_str_array(key),
                gguf.opt_per_layer(key),
            );
        });
        assert!(peak <= 16 << 10, "{peak} bytes for the getters of {key}");
        if let Value::Array(array) = value {
            let (n_elements, peak) =
                peak_bytes(|| array.iter().filter(|element| element.ty() == array.element_type()).count());
            assert_eq!((n_elements, peak), (array.len(), 0));
            assert_eq!(array.scalar(array.len()), None);
        }
    }
    let n_data_bytes: usize = gguf.tensors.iter().map(|tensor| gguf.data(tensor).len()).sum();
    assert!(n_data_bytes <= bytes.len() - gguf.data_begin());
    assert!(gguf.tensors.iter().all(|tensor| std::ptr::eq(gguf.tensor(tensor.name).unwrap(), tensor)));
    assert!(gguf.trailing().end == bytes.len() && gguf.gaps().iter().all(|gap| gap.start < gap.end));
    true
}

/// The smallest files of the fixtures, whole: one of each tokenizer and a few types.
static FIXTURES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/models"));
    let names = ["rnd-llama.Q4_0", "rnd-qwen2.Q4_K_M", "stories260K.Q4_0", "rnd-llama.IQ4_NL"];
    names.map(|name| std::fs::read(folder.join(format!("{name}.gguf"))).unwrap()).into()
});

/// One change of a file's head.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    Number32(Index, u32),
    Number64(Index, u64),
    Remove(Index, usize),
    Repeat(Index, usize),
    Insert(Index, Vec<u8>),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let small = || 0..=64u32;
    let number32 = prop_oneof![small(), Just(u32::MAX), Just(1 << 31), any::<u32>()];
    let edges = vec![u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 32, (1 << 32) - 1, 1 << 61, 1 << 40, 1 << 20];
    let number64 = prop_oneof![small().prop_map(u64::from), select(edges), any::<u64>()];
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        4 => (at(), number32).prop_map(|(at, number)| Change::Number32(at, number)),
        4 => (at(), number64).prop_map(|(at, number)| Change::Number64(at, number)),
        2 => (at(), 1..64usize).prop_map(|(at, n)| Change::Remove(at, n)),
        2 => (at(), 1..256usize).prop_map(|(at, n)| Change::Repeat(at, n)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => at().prop_map(Change::Cut),
    ]
}

/// Positions that a parser looks at: half of them in the header and the first entries, the rest in the whole head, where
/// most bytes belong to strings.
fn position(at: &Index, head_bytes: usize) -> usize {
    let at = at.index(2 * head_bytes);
    if at < head_bytes { at } else { (at - head_bytes) % head_bytes.min(600) }
}

fn apply(change: &Change, file: &mut Vec<u8>, head_bytes: usize) {
    let head_bytes = head_bytes.min(file.len());
    if head_bytes < 16 {
        return;
    }
    let place =
        |at: &Index, n_bytes: usize| position(at, head_bytes).min(file.len() - n_bytes.min(file.len()));
    match change {
        Change::Byte(at, byte) => {
            let at = place(at, 1);
            file[at] = *byte;
        }
        Change::Number32(at, number) => {
            let at = place(at, 4);
            file[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        Change::Number64(at, number) => {
            let at = place(at, 8);
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        Change::Remove(at, n_bytes) => {
            let at = place(at, *n_bytes);
            drop(file.drain(at..file.len().min(at + n_bytes)));
        }
        Change::Repeat(at, n_bytes) => {
            let at = place(at, *n_bytes);
            let piece = file[at..file.len().min(at + n_bytes)].to_vec();
            file.splice(at..at, piece);
        }
        Change::Insert(at, bytes) => {
            let at = place(at, 1);
            file.splice(at..at, bytes.iter().copied());
        }
        Change::Cut(at) => {
            let at = place(at, 1);
            file.truncate(at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_models(which in 0..4usize, changes in prop::collection::vec(change(), 1..4)) {
        let mut file = FIXTURES[which].clone();
        let head_bytes = Gguf::parse(&file).unwrap().data_begin();
        changes.iter().for_each(|change| apply(change, &mut file, head_bytes));
        parse_and_use(&file);
    }

    #[test]
    fn mutated_small_file(changes in prop::collection::vec(change(), 1..6)) {
        let mut file = Raw::small().bytes();
        let head_bytes = file.len();
        changes.iter().for_each(|change| apply(change, &mut file, head_bytes));
        parse_and_use(&file);
    }

    #[test]
    fn random_bytes_after_a_good_header(
        n_tensors in 0..20u64, n_entries in 0..20u64, rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let raw = Raw { n_tensors: Some(n_tensors), n_entries: Some(n_entries), ..Raw::empty() };
        parse_and_use(&[raw.bytes(), rest].concat());
    }
}

/// The mutator would show nothing if every mutant were refused at its first byte.
#[test]
fn mutants_get_past_the_header() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(change(), 1..3);
    let mut n_parsed = 0;
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let changes = strategy.new_tree(&mut runner).unwrap().current();
        let mut file = FIXTURES[2].clone();
        changes.iter().for_each(|change| apply(change, &mut file, 14_000));
        match Gguf::parse(&file) {
            Ok(_) => n_parsed += 1,
            Err(error) => {
                places.insert(error.to_string().split([' ', ',']).next().unwrap().to_owned());
            }
        }
    }
    assert!((100..1900).contains(&n_parsed), "{n_parsed} of 2000 parsed");
    assert_eq!(places.into_iter().collect::<Vec<_>>(), ["header", "metadata", "tensor"]);
}

/// Files of nothing but the smallest entries cost the most memory for each byte.
#[test]
fn the_smallest_entries_stay_within_the_bound() {
    let alphabet: Vec<char> = (' '..='~').collect();
    // Three characters, each key another one.
    let key = |i: usize| -> String {
        [i / 95 / 95, i / 95 % 95, i % 95].map(|c| alphabet[c % 95]).iter().collect()
    };
    let entries = Raw { entries: (0..500_000).map(|i| entry(key(i), U8, [0])).collect(), ..Raw::empty() };
    assert!(parse_and_use(&entries.bytes()));
    let tensors = (0..200_000).map(|i| tensor(key(i), &[1], GgmlType::I8.id(), 8 * i as u64)).collect();
    let mut tensors = Raw { tensors, data: vec![0; 8 * 200_000], alignment: 8, ..Raw::empty() };
    tensors.entries = vec![entry("general.alignment", mutate::U32, 8u32.to_le_bytes())];
    assert!(parse_and_use(&tensors.bytes()));
    // The list alone, without data for its tensors, costs no more.
    tensors.data.clear();
    assert!(!parse_and_use(&tensors.bytes()));
}
