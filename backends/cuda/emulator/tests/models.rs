//! Whole models on the emulated device against the scalar definition: every family, every weight type.

use sarit_core::format::FINGERPRINT_START;
use sarit_core::{DType, Engine, Model, Sampler, Sampling, Scalar, Scratch, State, StateDType};
use sarit_cpu::AlignedBytes;
use sarit_cuda::{Device, DeviceMemory, Prompts, Request, Streams};
use sarit_cuda_emulator::Emulator;
use sarit_tests::{
    Lent, assert_same_bits, converted, converted_with_window, families, golden, mamba2, mamba2_of, run,
    tokens, write_checkpoint,
};
use std::collections::BTreeMap;

/// Smaller than the texts, so that rings of attention wrap around.
const WINDOW: usize = 7;

/// Few blocks, so that each does several units; an odd number, so that no unit falls where its index says.
const DEVICES: [Emulator; 2] = [Emulator::new(3, 0), Emulator::new(2, 41)];

/// That the device, when it reads the tokens `chunk` at once, has all logits and the hash of the state as they are wanted.
fn assert_as(
    want: &(Vec<f32>, u64),
    what: &str,
    device: Emulator,
    model: &Model<'_>,
    ids: &[u32],
    chunk: usize,
) {
    let what = format!("{what}, {device:?}, chunk {chunk}");
    let mut streams = Streams::new(device, *model, 2, chunk).unwrap();
    let mut logits = Vec::new();
    streams.feed_each(1, ids, |_, row| logits.extend_from_slice(row)).unwrap();
    assert_same_bits(&logits, &want.0, &format!("{what}: logits"));
    assert_eq!(exported(&streams, 1), want.1, "{what}: state");
}

/// Hash of a stream's state.
fn exported<D: Device>(streams: &Streams<'_, D>, stream: usize) -> u64 {
    let mut lent = Lent::new(streams.model(), 1);
    let mut state = State::init(streams.model(), &mut lent.state).unwrap();
    streams.export(stream, &mut state).unwrap();
    assert_eq!(state.position(), streams.position(stream));
    state.hash()
}

fn models(weights: &[DType], mut each: impl FnMut(&str, Model<'_>)) {
    for name in families() {
        for &weights in weights {
            let file = converted_with_window(&golden(&name), weights, Some(WINDOW));
            each(&format!("{name} {}", weights.name()), Model::from_bytes(&file).unwrap());
        }
    }
}

#[test]
fn every_family_has_the_bits_of_scalar() {
    models(&DType::ALL, |name, model| {
        let ids = tokens(11, model.vocab_len());
        let want = run(model, Scalar, &ids, 1);
        for (device, chunk) in DEVICES.into_iter().zip([1, 5]) {
            assert_as(&want, name, device, &model, &ids, chunk);
        }
    });
}

/// The kernels made for a model, whose lengths are constants: Mamba-1, Mamba-2 and a mixture of all other operations.
#[test]
fn kernels_made_for_a_model_have_the_bits_of_scalar() {
    for (name, weights) in
        [("mamba-tiny", DType::Q8), ("mamba2-groups", DType::Q4), ("jamba-tiny", DType::F16)]
    {
        let file = converted_with_window(&golden(name), weights, Some(WINDOW));
        let model = Model::from_bytes(&file).unwrap();
        let ids = tokens(11, model.vocab_len());
        let want = run(model, Scalar, &ids, 1);
        for chunk in [1, 5] {
            assert_as(&want, name, Emulator::special(3, 7), &model, &ids, chunk);
        }
    }
}

/// More blocks than units: some read nothing that others post, and none has two units of a product, whose groups all its warps share.
#[test]
fn blocks_without_units_leave_the_bits_alone() {
    let golden =
        ["mamba-tiny", "mamba2-groups"].map(|name| converted_with_window(&golden(name), DType::F32, None));
    // Two, three and nine groups for a lane of the sum over groups.
    let sized = [(9, 288), (16, 576), (4, 2304)];
    let sized = sized.map(|(d_state, d_inner)| mamba2(d_state, d_inner, DType::Q8));
    for file in golden.into_iter().chain(sized) {
        let model = Model::from_bytes(&file).unwrap();
        let ids = tokens(5, model.vocab_len());
        let want = run(model, Scalar, &ids, 1);
        for seed in [0, 3] {
            assert_as(
                &want,
                &format!("vocabulary {}", model.vocab_len()),
                Emulator::new(12, seed),
                &model,
                &ids,
                1,
            );
        }
    }
}

/// Weights of long products come to shared memory early, where there is room: in pieces of a few groups, of which the last warps have fewer or none.
#[test]
fn weights_that_come_early_leave_the_bits_alone() {
    for (vocab, weights) in [(31, DType::Q8), (4600, DType::Q4)] {
        let file = mamba2_of(4, 1840, vocab, 16, 4608, weights);
        let model = Model::from_bytes(&file).unwrap();
        let ids = tokens(3, model.vocab_len());
        let want = run(model, Scalar, &ids, 1);
        for device in [Emulator::new(5, 9), Emulator::special(4, 0)] {
            let device = device.with_shared_bytes(227 << 10);
            assert_as(&want, &format!("{vocab} tokens"), device, &model, &ids, 1);
            // Steps of one launch begin with the first product anew.
            let mut streams = Streams::new(device, model, 1, 1).unwrap();
            let mut request = [Request { stream: 0, token: 3, sampling: Sampling::default() }];
            let got = streams.generate(&mut request, 3, &[]).unwrap().remove(0);
            assert_eq!(got, chosen(&model, 3, Sampling::default(), 3));
        }
    }
}

#[test]
fn tokens_are_held_and_taken_in_as_by_scalar() {
    // One for each number of elements that a thread may have.
    for d_state in [9, 24, 72, 136] {
        let file = mamba2(d_state, 48, DType::Q8);
        let model = Model::from_bytes(&file).unwrap();
        let ids = tokens(37, model.vocab_len());
        let want = run(model, Scalar, &ids, 1);
        for (device, chunk) in [(DEVICES[0], 1), (DEVICES[1], 5), (DEVICES[0], 21), (DEVICES[1], 37)] {
            assert_as(&want, &format!("states of {d_state}"), device, &model, &ids, chunk);
        }
    }
}

/// A decay per element: three blocks of a prompt's tokens, of which one is on its way while another is scanned.
#[test]
fn prompts_are_scanned_block_by_block_as_by_scalar() {
    let file = converted_with_window(&golden("mamba-tiny"), DType::Q8, None);
    let model = Model::from_bytes(&file).unwrap();
    let ids = tokens(37, model.vocab_len());
    let want = run(model, Scalar, &ids, 1);
    for device in DEVICES {
        assert_as(&want, "mamba-tiny", device, &model, &ids, 37);
    }
}

/// A weight that is not a number and has the low bits of a code makes an activation of code 0.
/// Gives a changed file its fingerprint.
fn seal(file: &mut [u8]) {
    let print = sarit_core::hash(&file[FINGERPRINT_START..]);
    file[8..16].copy_from_slice(&print.to_le_bytes());
}

/// The file with D in the place of the decays, of which there are then as many.
fn with_decays_like_d(mut file: AlignedBytes) -> AlignedBytes {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    // Bounds of dt, then a_log2 and D.
    let is_bounds = |at: usize| [word(at), word(at + 4)] == [0, f32::INFINITY.to_bits()];
    let found = (0..file.len() - 16).step_by(4).filter(|&at| is_bounds(at));
    let places: Vec<_> = found.map(|at| (at + 8, word(at + 12))).collect();
    for (at, d) in places {
        file[at..at + 4].copy_from_slice(&d.to_le_bytes());
    }
    seal(&mut file);
    file
}

/// A decay per head beside B and C that are projected: no family has it, but a plan may.
#[test]
fn decays_per_head_go_with_projections() {
    // D has as many numbers as Mamba-1 has heads.
    let file = converted_with_window(&golden("mamba-tiny"), DType::Q8, None);
    let before = Model::from_bytes(&file).unwrap().state_bytes();
    let file = with_decays_like_d(file);
    let model = Model::from_bytes(&file).unwrap();
    // Tokens are held.
    assert!(model.state_bytes() > before);
    let ids = tokens(40, model.vocab_len());
    let want = run(model, Scalar, &ids, 1);
    // One block has more channels than half-warps without a token.
    for (device, chunk) in [(Emulator::new(1, 7), 1), (DEVICES[0], 1), (DEVICES[1], 7)] {
        assert_as(&want, "decays per head", device, &model, &ids, chunk);
    }
}

/// A decay per element beside B and C that come from the input directly: likewise.
#[test]
fn decays_per_element_need_no_projections() {
    // D has as many numbers as there are elements of decays.
    let file = with_decays_like_d(mamba2(36, 144, DType::Q8));
    let model = Model::from_bytes(&file).unwrap();
    let ids = tokens(20, model.vocab_len());
    let want = run(model, Scalar, &ids, 1);
    for chunk in [1, 7] {
        assert_as(&want, "decays per element", DEVICES[0], &model, &ids, chunk);
    }
    step_beside(DEVICES[1], "decays per element", &model, 3);
}

#[test]
fn what_is_not_a_number_has_code_0() {
    let mut file = converted_with_window(&golden("mamba2-tiny"), DType::Q8, None);
    let start = file.as_ptr().addr();
    let model = Model::from_bytes(&file).unwrap();
    let (_, norm) = model.tensors().find(|(name, _)| *name == "backbone.layers.0.norm.weight").unwrap();
    let at = norm.data.as_ptr().addr() - start;
    file[at..at + 4].copy_from_slice(&0x7fc0_0055u32.to_le_bytes());
    seal(&mut file);
    let model = Model::from_bytes(&file).unwrap();
    let ids = tokens(11, model.vocab_len());
    let want = run(model, Scalar, &ids, 1);
    assert!(want.0.iter().all(|logit| logit.is_finite()));
    assert_as(&want, "a weight that is not a number", DEVICES[0], &model, &ids, 5);
}

#[test]
fn states_go_from_host_to_device_and_back() {
    models(&[DType::Q8], |name, model| {
        let ids = tokens(22, model.vocab_len());
        let want = run(model, Scalar, &ids, 1);
        let mut lent = Lent::new(&model, 4);
        let mut state = State::init(&model, &mut lent.state).unwrap();
        let mut scratch = Scratch::new(&model, &mut lent.scratch, 4).unwrap();
        let engine = Engine::new(model, Scalar);
        engine.feed(&mut state, &mut scratch, &ids[..14]).unwrap();
        let mut streams = Streams::new(DEVICES[1], model, 1, 3).unwrap();
        streams.import(0, &state).unwrap();
        streams.feed(0, &ids[14..19]).unwrap();
        streams.export(0, &mut state).unwrap();
        engine.feed(&mut state, &mut scratch, &ids[19..21]).unwrap();
        let logits = engine.step(&mut state, &mut scratch, ids[21]).unwrap();
        assert_same_bits(logits, &want.0[21 * model.vocab_len()..], &format!("{name}: logits"));
        assert_eq!(state.hash(), want.1, "{name}: state");
    });
}

/// Mamba-1 with states of `d_state` elements.
fn mamba(d_state: usize, d_inner: usize, weights: DType) -> AlignedBytes {
    mamba_of_rank(4, d_state, d_inner, weights)
}

/// The same with dt projected from `rank` numbers.
fn mamba_of_rank(rank: usize, d_state: usize, d_inner: usize, weights: DType) -> AlignedBytes {
    let (d_model, vocab) = (24, 31);
    let expand = d_inner / d_model;
    let config = format!(
        r#"{{"model_type": "mamba", "architectures": ["MambaForCausalLM"], "hidden_size": {d_model},
        "num_hidden_layers": 1, "vocab_size": {vocab}, "state_size": {d_state}, "expand": {expand}, "conv_kernel": 4,
        "intermediate_size": {d_inner}, "time_step_rank": {rank}, "use_bias": false, "use_conv_bias": true,
        "hidden_act": "silu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true}}"#
    );
    let layer = "backbone.layers.0";
    let tensors = [
        ("backbone.embeddings.weight".into(), (vec![vocab, d_model], 1.0)),
        ("backbone.norm_f.weight".into(), (vec![d_model], 1.0)),
        (format!("{layer}.norm.weight"), (vec![d_model], 1.0)),
        (format!("{layer}.mixer.in_proj.weight"), (vec![2 * d_inner, d_model], 0.5)),
        (format!("{layer}.mixer.conv1d.weight"), (vec![d_inner, 1, 4], 0.7)),
        (format!("{layer}.mixer.conv1d.bias"), (vec![d_inner], 0.2)),
        (format!("{layer}.mixer.x_proj.weight"), (vec![rank + 2 * d_state, d_inner], 0.3)),
        (format!("{layer}.mixer.dt_proj.weight"), (vec![d_inner, rank], 0.5)),
        (format!("{layer}.mixer.dt_proj.bias"), (vec![d_inner], 1.0)),
        (format!("{layer}.mixer.A_log"), (vec![d_inner, d_state], 1.0)),
        (format!("{layer}.mixer.D"), (vec![d_inner], 1.0)),
        (format!("{layer}.mixer.out_proj.weight"), (vec![d_model, d_inner], 0.5)),
    ];
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), &config, &BTreeMap::from(tensors), d_state as u64);
    converted(folder.path(), weights)
}

/// Products of more loads than are under way at once, with units that slots have for themselves, and that they share.
#[test]
fn long_products_have_the_bits_of_scalar() {
    let devices = [
        (Emulator::new(1, 3), DType::Q8),
        (Emulator::new(1, 3), DType::Q4),
        (Emulator::special(2, 7), DType::Q8),
    ];
    for (device, weights) in devices {
        let file = mamba(5, 4800, weights);
        let model = Model::from_bytes(&file).unwrap();
        let ids = tokens(3, model.vocab_len());
        let want = run(model, Scalar, &ids, 1);
        assert_as(&want, weights.name(), device, &model, &ids, 1);
    }
}

/// Three streams with a token each, so many times. Another stays as it is; the three are at different positions, and one comes to the
/// end of a block.
fn step_beside(device: Emulator, name: &str, model: &Model<'_>, steps: usize) {
    let vocab = model.vocab_len();
    let ids = tokens(3 * steps.max(5), vocab);
    let mut streams = Streams::new(device, *model, 4, 2).unwrap();
    let before = exported(&streams, 2);
    streams.feed(3, &ids[..13]).unwrap();
    let mut logits = [const { Vec::new() }; 3];
    for t in 0..steps {
        let step: Vec<_> = [0, 3, 1].iter().enumerate().map(|(i, &s)| (s, ids[steps * i + t])).collect();
        let all = streams.step_all(&step).unwrap();
        logits.iter_mut().zip(all.chunks_exact(vocab)).for_each(|(l, row)| l.extend_from_slice(row));
    }
    assert_eq!(exported(&streams, 2), before, "{name}: the idle stream");
    for (i, stream) in [0, 3, 1].into_iter().enumerate() {
        let own = &ids[steps * i..steps * (i + 1)];
        let read = if stream == 3 { [&ids[..13], own].concat() } else { own.to_vec() };
        let want = run(*model, Scalar, &read, 1);
        let skipped = (read.len() - steps) * vocab;
        assert_same_bits(&logits[i], &want.0[skipped..], &format!("{name}: stream {stream}"));
        assert_eq!(exported(&streams, stream), want.1, "{name}: stream {stream}");
    }
}

/// Products of as many groups as a block has on their way at once, and of more; steps of time projected from one group and from three.
#[test]
fn long_products_step_beside_each_other() {
    for (rank, d_inner, weights) in [(4, 1536, DType::Q8), (72, 1920, DType::Q8), (72, 1536, DType::Q4)] {
        let file = mamba_of_rank(rank, 5, d_inner, weights);
        let model = Model::from_bytes(&file).unwrap();
        let name = format!("{d_inner}, rank {rank}, {}", weights.name());
        step_beside(Emulator::new(1, 3), &name, &model, 2);
    }
}

#[test]
fn streams_beside_each_other_do_not_touch() {
    models(&[DType::Q4], |name, model| step_beside(DEVICES[0], name, &model, 6));
}

/// One for each number of elements that a thread may have, with a decay per head and per element; one block that does all units.
#[test]
fn states_of_any_size_step_beside_each_other() {
    for d_state in [9, 24, 72, 136] {
        for (name, model) in [("mamba2", mamba2 as fn(_, _, _) -> _), ("mamba", mamba)] {
            let file = model(d_state, 144, DType::Q8);
            let model = Model::from_bytes(&file).unwrap();
            step_beside(Emulator::new(1, 5), &format!("{name}, {d_state}"), &model, 5);
        }
    }
}

/// Several units of a group, and more heads of a sequence than a block weighs at once; with room for all pieces of a unit's states, and without.
#[test]
fn many_heads_step_beside_each_other() {
    for (heads, d_state) in [(4, 72), (144, 72), (144, 128)] {
        let file = mamba2_of(heads, 24, 31, d_state, 576, DType::Q8);
        let model = Model::from_bytes(&file).unwrap();
        for shared_bytes in [163 << 10, 99 << 10] {
            let device = Emulator::new(2, 7).with_shared_bytes(shared_bytes);
            step_beside(device, &format!("{heads} heads, {d_state}, {shared_bytes} bytes"), &model, 5);
        }
    }
}

#[test]
fn nothing_is_done_for_no_streams() {
    let file = converted_with_window(&golden("mamba2-tiny"), DType::Q8, None);
    let model = Model::from_bytes(&file).unwrap();
    for count in [1, 2] {
        let mut streams = Streams::new(DEVICES[0], model, count, 3).unwrap();
        streams.feed(0, &tokens(4, model.vocab_len())).unwrap();
        let before = exported(&streams, 0);
        assert!(streams.step_all(&[]).unwrap().is_empty());
        assert!(streams.generate(&mut [], 3, &[]).unwrap().is_empty());
        assert_eq!(exported(&streams, 0), before);
    }
}

/// The emulated model checks it.
#[test]
fn a_model_stays_until_no_kernel_reads_it() {
    let file = converted_with_window(&golden("mamba2-tiny"), DType::Q8, None);
    let model = Model::from_bytes(&file).unwrap();
    let mut streams = Streams::new(DEVICES[0], model, 1, 3).unwrap();
    streams.feed(0, &[1, 2]).unwrap();
}

#[test]
fn a_model_in_the_hosts_memory_takes_none_of_the_devices() {
    let file = converted_with_window(&golden("mamba2-tiny"), DType::Q8, None);
    let model = Model::from_bytes(&file).unwrap();
    let streams = Streams::new(DEVICES[0], model, 2, 3).unwrap();
    let with_copy = DeviceMemory::of(&model, 2, 3, DEVICES[0].grid, Prompts::Exact).unwrap();
    assert_eq!(streams.memory(), DeviceMemory { model_bytes: 0, ..with_copy });
}

/// What the host chooses after `token`.
fn chosen(model: &Model<'_>, mut token: u32, sampling: Sampling, count: usize) -> Vec<u32> {
    let mut lent = Lent::new(model, 1);
    let mut state = State::init(model, &mut lent.state).unwrap();
    let mut scratch = Scratch::new(model, &mut lent.scratch, 1).unwrap();
    let engine = Engine::new(*model, Scalar);
    let mut sampler = Sampler::new(sampling).unwrap();
    let mut next = || {
        token = sampler.sample(engine.step(&mut state, &mut scratch, token).unwrap());
        token
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn tokens_are_chosen_on_the_device_as_on_the_host() {
    let file = converted_with_window(&golden("mamba2-tiny"), DType::Q8, None);
    let model = Model::from_bytes(&file).unwrap();
    let hot = Sampling { temperature: 1.3, seed: 5, ..Sampling::default() };
    let samplings = [
        Sampling::default(),
        Sampling { top_k: 40, ..hot },
        Sampling { top_k: 1, ..hot },
        Sampling { top_k: 90, top_p: 0.9, ..hot },
    ];
    for sampling in samplings {
        let want = chosen(&model, 3, sampling, 40);
        let mut streams = Streams::new(DEVICES[1], model, 1, 1).unwrap();
        // Two launches, and a second call that goes on with the same random numbers.
        let mut request = [Request { stream: 0, token: 3, sampling }];
        let mut got = streams.generate(&mut request, 35, &[]).unwrap().remove(0);
        got.extend(streams.generate(&mut request, 5, &[]).unwrap().remove(0));
        assert_eq!(got, want, "{sampling:?}");

        // A stop token ends the text: it is the last, and is not read.
        let stop = want[20];
        let first = want.iter().position(|&token| token == stop).unwrap();
        streams.reset(0).unwrap();
        let mut request = [Request { stream: 0, token: 3, sampling }];
        let got = streams.generate(&mut request, 40, &[9999, stop]).unwrap().remove(0);
        assert_eq!(got, want[..=first], "{sampling:?}");
        assert_eq!(streams.position(0), first as u64 + 1);
    }
    // Several streams, each in its own way.
    let mut streams = Streams::new(DEVICES[0], model, samplings.len(), 1).unwrap();
    let request = |(stream, &sampling)| Request { stream, token: 7 + stream as u32, sampling };
    let mut requests: Vec<_> = samplings.iter().enumerate().map(request).collect();
    let want: Vec<_> = requests.iter().map(|r| chosen(&model, r.token, r.sampling, 6)).collect();
    assert_eq!(streams.generate(&mut requests, 6, &[]).unwrap(), want);
    // All greedy: what serves the others is passed over.
    for device in DEVICES {
        let mut streams = Streams::new(device, model, 3, 1).unwrap();
        let request = |stream| Request { stream, token: 7 + stream as u32, sampling: Sampling::default() };
        let mut requests = [0, 1, 2].map(request);
        let want: Vec<_> = requests.iter().map(|r| chosen(&model, r.token, r.sampling, 6)).collect();
        assert_eq!(streams.generate(&mut requests, 6, &[]).unwrap(), want);
    }
    let unsupported = Sampling { top_k: 0, ..hot };
    assert!(!streams.can_choose(&unsupported));
    let mut request = [Request { stream: 0, token: 1, sampling: unsupported }];
    assert!(streams.generate(&mut request, 1, &[]).is_err());
}

#[test]
fn bad_input_is_refused_before_anything_runs() {
    let file = converted_with_window(&golden("mamba2-tiny"), DType::Q8, None);
    let other = converted_with_window(&golden("mamba2-tiny"), DType::Q4, None);
    let (model, other) = (Model::from_bytes(&file).unwrap(), Model::from_bytes(&other).unwrap());
    assert!(Streams::new(DEVICES[0], model, 0, 1).is_err());
    assert!(Streams::new(DEVICES[0], model, 1, 0).is_err());
    let error = Streams::new(DEVICES[0], model.with_state(StateDType::F16), 1, 1).err().unwrap();
    assert!(error.to_string().contains("f16"), "{error}");
    let mut streams = Streams::new(DEVICES[0], model, 1, 4).unwrap();
    let error = streams.feed(0, &[1, model.vocab_len() as u32]).unwrap_err();
    assert!(error.to_string().contains("outside the vocabulary"), "{error}");
    assert_eq!(streams.position(0), 0);
    let mut lent = Lent::new(&other, 1);
    let mut state = State::init(&other, &mut lent.state).unwrap();
    assert!(streams.import(0, &state).is_err() && streams.export(0, &mut state).is_err());
}
