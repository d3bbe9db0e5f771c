//! Options that vLLM 0.33.0 does not know: what became of those that earlier versions had, and what was probably meant by
//! the others.

use super::options;

/// How alike two names must be (Jaro-Winkler, 0 to 1) for one to be suggested in place of the other.
const ALIKE: f64 = 0.9;

/// Options of earlier versions, and what to do instead.
const REMOVED: &[(&str, &str)] = &[
    ("--device", "remove it and set spec.vllm.accelerator.resourceName"),
    ("--disable-frontend-multiprocessing", "remove it: there is only one engine"),
    ("--enable-reasoning", "remove it: --reasoning-parser=<name> is enough"),
    ("--guided-decoding-backend", "write --structured-outputs-config.backend=<name>"),
    ("--max-seq-len-to-capture", "write --max-cudagraph-capture-size=<number>"),
    ("--num-lookahead-slots", "write --speculative-config.num_speculative_tokens=<number>"),
    ("--num-scheduler-steps", "remove it: scheduling is asynchronous by default"),
    ("--num-speculative-tokens", "write --speculative-config.num_speculative_tokens=<number>"),
    ("--omni", "remove it: it belongs to another program"),
    ("--override-neuron-config", "write --additional-config=<JSON>"),
    ("--override-pooler-config", "write --pooler-config=<JSON>"),
    ("--preemption-mode", "remove it: a preempted request is always computed again"),
    ("--rope-scaling", "write --hf-overrides={\"rope_parameters\": ...}"),
    ("--rope-theta", "write --hf-overrides={\"rope_parameters\": ...}"),
    ("--speculative-model", "write --speculative-config.model=<model>"),
    ("--swap-space", "remove it: a preempted request is computed again; --kv-offloading-size keeps blocks in memory of the node"),
    ("--task", "remove it and set spec.vllm.task"),
    ("--tp", "remove it and set spec.vllm.parallelism.tensor"),
    ("--use-v2-block-manager", "remove it: there is only one block manager"),
    ("--version", "remove it: it prints and ends"),
    ("--worker-use-ray", "remove it: one replica runs in one pod"),
];

/// What is wrong with a name that the parser does not know, and what to do.
pub(super) fn explain(text: &str) -> (String, String) {
    let name = text.split(['=', ' ']).next().unwrap_or(text);
    if let Some((_, fix)) = REMOVED.iter().find(|(removed, _)| *removed == name) {
        return ("vLLM 0.33.0 has no such option any more".to_owned(), (*fix).to_owned());
    }
    let problem = "vLLM 0.33.0 has no such option".to_owned();
    if name == "--" {
        return (problem, "remove it: what stands behind it would not be read as options".to_owned());
    }
    if name == "-O" {
        return (problem, "write -O0, -O1, -O2 or -O3".to_owned());
    }
    let wanted = name.trim_start_matches('-').to_ascii_lowercase();
    let nearest = options::all()
        .iter()
        .flat_map(|option| &option.option_strings)
        .filter(|spelling| spelling.starts_with("--"))
        .map(|spelling| (strsim::jaro_winkler(&wanted, spelling.trim_start_matches('-')), spelling))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let fix = match nearest {
        Some((_, spelling)) => format!("did you mean {spelling}?"),
        None => "remove it; `vllm serve --help=all` lists what there is".to_owned(),
    };
    (problem, fix)
}
