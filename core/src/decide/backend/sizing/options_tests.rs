use proptest::prelude::*;

use super::super::fixtures::spec;
use super::*;

fn options(items: &[&str]) -> Options {
    let extra_args = items.iter().map(|item| (*item).to_owned()).collect();
    Options::of(&VllmSpec { model: "a/b".into(), extra_args, ..VllmSpec::default() })
}

/// An option, a prefix that no other option begins with, and a value.
const VALUED: [(&str, &str, &str); 6] = [
    ("--max-num-batched-tokens", "--max-num-b", "64k"),
    ("--mm-encoder-tp-mode", "--mm-encoder-tp", "data"),
    ("--hf-overrides", "--hf-o", "{\"max_position_embeddings\": 1}"),
    ("--max-lora-rank", "--max-lora-r", "64"),
    ("--max-loras", "--max-loras", "4"),
    ("--max-cpu-loras", "--max-cpu-l", "8"),
];

proptest! {
    #[test]
    fn every_spelling_that_vllm_accepts_gives_the_same_options(
        chosen in proptest::sample::subsequence((0..VALUED.len()).collect::<Vec<_>>(), 0..=VALUED.len()).prop_shuffle(),
        spellings in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), VALUED.len()),
        eager in proptest::option::of(0_usize..3),
    ) {
        let (mut plain, mut written) = (Vec::new(), Vec::new());
        for index in chosen {
            let (name, prefix, value) = VALUED[index];
            let (short, underscores, apart, repeated) = spellings[index];
            plain.push(format!("{name}={value}"));
            let mut spelling = if short { prefix } else { name }.to_owned();
            if underscores {
                spelling = format!("--{}", spelling.trim_start_matches('-').replace('-', "_"));
            }
            if repeated {
                written.push(format!("{name}=1"));
            }
            if apart { written.extend([spelling, value.to_owned()]) } else { written.push(format!("{spelling}={value}")) }
        }
        if let Some(how) = eager {
            plain.push("--enforce-eager".to_owned());
            let spellings: [&[&str]; 3] = [&["--enforce_eager"], &["--no-enforce-eager", "--enforce-eager"], &["--enforce"]];
            written.extend(spellings[how].iter().map(|item| (*item).to_owned()));
        }
        let of = |items: &[String]| options(&items.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(of(&written), of(&plain), "{:?}", written);
    }
}

#[test]
fn arguments_are_read_as_vllms_parser_reads_them() {
    let options = options(&["--max-num-batched-tokens=2048", "--max_num_batched_tokens", "32k", "--mm-encoder-tp-mode", "data"]);
    assert_eq!(options.max_num_batched_tokens, Some(32_000));
    assert!(options.whole_vision_tower && !options.enforce_eager && !options.longer_context);
}

#[test]
fn the_last_of_a_flag_and_its_opposite_counts() {
    assert!(!options(&["--enforce-eager", "--no-enforce-eager"]).enforce_eager);
    assert!(options(&["--hf-overrides.max_position_embeddings", "131072"]).longer_context);
}

#[test]
fn room_is_kept_for_the_adapters_up_to_a_bound_unless_the_user_says_for_how_many() {
    let slots = |adapters: usize, more: &str| {
        let adapters: Vec<String> = (0..adapters).map(|number| format!("{{name: a{number}, source: hf://a/b}}")).collect();
        Options::of(&spec(&format!("{{model: a/b, loraAdapters: [{}], extraArgs: [{more}]}}", adapters.join(", ")))).lora_slots
    };
    assert_eq!((slots(0, ""), slots(1, ""), slots(3, ""), slots(32, "")), (None, Some(1), Some(3), Some(4)));
    assert_eq!((slots(0, "--max-loras=2"), slots(3, "'--max-loras', '2'")), (None, Some(2)));
}
