use super::*;

/// Everything off but the draw.
fn plain(seed: u64) -> SamplerOptions {
    SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..SamplerOptions::default() }
}

/// How often each token is drawn in 20 000 draws.
fn counts(options: SamplerOptions, logits: &[f32]) -> Vec<f64> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..20_000 {
        counts[sampler.sample(logits) as usize] += 1.0;
    }
    counts
}

/// Pearson's statistic must stay below a bound that true probabilities exceed once in far more than a
/// million runs (8 degrees of freedom at most here; the seeds are fixed, so the test is, too).
fn assert_distributed(counts: &[f64], probabilities: &[f64]) {
    let n: f64 = counts.iter().sum();
    let mut chi_square = 0.0;
    for (&count, &p) in counts.iter().zip(probabilities) {
        if p == 0.0 {
            assert_eq!(count, 0.0, "an impossible token was drawn: {counts:?}");
        } else {
            chi_square += (count - n * p).powi(2) / (n * p);
        }
    }
    assert!(chi_square < 45.0, "chi-square {chi_square}: {counts:?} against {probabilities:?}");
}

fn logits_of(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_among_equals() {
    let mut greedy = Sampler::new(SamplerOptions::greedy()).unwrap();
    assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(greedy.sample(&[-0.0, 0.0]), 0);
    assert_eq!(greedy.sample(&[f32::NAN, -5.0, f32::NAN]), 1);
    assert_eq!(greedy.sample(&[1.0, f32::INFINITY, f32::INFINITY]), 1);
}

#[test]
fn without_a_single_number_the_lowest_id_wins() {
    let hopeless = [vec![f32::NAN; 5], vec![f32::NEG_INFINITY; 5], Vec::new()];
    for options in [SamplerOptions::greedy(), SamplerOptions::default(), plain(3)] {
        let mut sampler = Sampler::new(options).unwrap();
        for logits in &hopeless {
            assert_eq!(sampler.sample(logits), 0);
        }
    }
}

#[test]
fn draws_follow_the_softmax_and_never_take_what_cannot_be() {
    let p = [0.5, 0.2, 0.15, 0.1, 0.05, 0.0, 0.0];
    let mut logits = logits_of(&p);
    logits[6] = f32::NAN;
    assert_eq!(logits[5], f32::NEG_INFINITY);
    assert_distributed(&counts(plain(1), &logits), &p);
    // Infinite logits share everything.
    let infinite = [0.0, f32::INFINITY, 5.0, f32::INFINITY];
    assert_distributed(&counts(plain(2), &infinite), &[0.0, 0.5, 0.0, 0.5]);
}

#[test]
fn temperature_sharpens_and_flattens() {
    let logits = [2.0, 1.0, 0.0];
    for temperature in [0.5_f32, 1.0, 3.0] {
        let weights = logits.map(|x: f32| f64::from(x / temperature).exp());
        let total: f64 = weights.iter().sum();
        let options = SamplerOptions { temperature, ..plain(4) };
        assert_distributed(&counts(options, &logits), &weights.map(|w| w / total));
    }
    let cold = SamplerOptions { temperature: f32::from_bits(1), ..plain(5) };
    assert_eq!(counts(cold, &logits), [20_000.0, 0.0, 0.0]);
}

#[test]
fn top_k_keeps_the_best_and_the_lower_id_among_equals() {
    let logits = logits_of(&[0.1, 0.3, 0.1, 0.4, 0.1]);
    let options = SamplerOptions { top_k: 3, ..plain(6) };
    assert_distributed(&counts(options, &logits), &[0.125, 0.375, 0.0, 0.5, 0.0]);
}

#[test]
fn top_k_of_a_large_vocabulary_is_the_head_of_a_full_sort() {
    let mut random = SplitMix64(9);
    // Few distinct values, so that ties fall across the cut.
    let logits: Vec<f32> = (0..40_000).map(|_| (random.next() % 5_000) as f32 / 100.0).collect();
    let mut sorted: Vec<u32> = (0..40_000).collect();
    sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    for top_k in [1, 2, 40, 31, 1000, 39_999] {
        let mut sampler = Sampler::new(SamplerOptions { top_k, ..plain(0) }).unwrap();
        sampler.gather(&logits);
        let ids: Vec<u32> = sampler.candidates.iter().map(|c| c.id).collect();
        assert_eq!(ids, sorted[..top_k], "top_k {top_k}");
    }
}

#[test]
fn top_p_keeps_the_smallest_sufficient_set() {
    let logits = logits_of(&[0.05, 0.5, 0.15, 0.3]);
    let thirds = [0.0, 0.5 / 0.8, 0.0, 0.3 / 0.8];
    assert_distributed(&counts(SamplerOptions { top_p: 0.75, ..plain(7) }, &logits), &thirds);
    assert_distributed(&counts(SamplerOptions { top_p: 0.0, ..plain(7) }, &logits), &[0.0, 1.0, 0.0, 0.0]);
    // A set larger than the first sorted stretch: 0.5 of 4 000 equal tokens is the first 2 000 of them.
    let mut sampler = Sampler::new(SamplerOptions { top_p: 0.5, ..plain(0) }).unwrap();
    sampler.gather(&[1.0; 4000]);
    sampler.keep_top_p();
    let ids: Vec<u32> = sampler.candidates.iter().map(|c| c.id).collect();
    assert_eq!(ids, (0..2000).collect::<Vec<_>>());
}

#[test]
fn min_p_compares_with_the_best() {
    let logits = logits_of(&[0.5, 0.3, 0.15, 0.05]);
    let options = SamplerOptions { min_p: 0.25, ..plain(8) };
    assert_distributed(&counts(options, &logits), &[0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0]);
    let options = SamplerOptions { min_p: 1.0, ..plain(8) };
    assert_eq!(counts(options, &[1.0, 2.0, 2.0, 0.0])[..1], [0.0]);
}

#[test]
fn the_cuts_look_at_probabilities_before_the_temperature() {
    // At temperature 100 the second token has nearly half the weight, but min-p has already dropped it.
    let options = SamplerOptions { min_p: 0.5, temperature: 100.0, ..plain(9) };
    assert_eq!(counts(options, &[2.0, 0.0]), [20_000.0, 0.0]);
}

#[test]
fn the_penalty_divides_positive_multiplies_negative_and_counts_once() {
    let options = SamplerOptions { repeat_penalty: 2.0, repeat_last_n: 3, ..SamplerOptions::greedy() };
    let mut sampler = Sampler::new(options).unwrap();
    let logits = [4.0, 3.0, 1.5, -1.0];
    assert_eq!(sampler.sample(&logits), 0);
    sampler.accept(0); // 4 / 2
    assert_eq!(sampler.sample(&logits), 1);
    sampler.accept(1); // 3 / 2
    assert_eq!(sampler.sample(&logits), 0, "2 beats 1.5");
    sampler.accept(0);
    assert_eq!(sampler.sample(&logits), 0, "seen twice, penalized once");
    sampler.accept(3);
    sampler.accept(999_999); // not in the vocabulary: no effect beyond its place
    sampler.accept(3); // 0 and 1 have left the last three
    assert_eq!(sampler.sample(&logits), 0);
    assert_eq!(sampler.sample(&[-2.0, -2.5, -2.2, -1.5]), 0, "-1.5 times 2 is below -2");
    sampler.reset();
    assert_eq!(sampler.sample(&[-2.0, -2.5, -2.2, -1.5]), 3);
}

#[test]
fn a_seed_is_a_text() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32) / 20.0).collect();
    let draw = |seed| {
        let mut sampler = Sampler::new(SamplerOptions { seed, ..SamplerOptions::default() }).unwrap();
        let ids: Vec<u32> = (0..50).map(|_| sampler.sample(&logits)).collect();
        sampler.reset();
        let again: Vec<u32> = (0..50).map(|_| sampler.sample(&logits)).collect();
        assert_eq!(ids, again, "reset begins anew");
        ids
    };
    assert_eq!(draw(42), draw(42));
    assert_ne!(draw(42), draw(43));
}

#[test]
fn the_generator_gives_the_published_numbers() {
    // The reference implementation's first outputs for seed 1234567.
    let mut random = SplitMix64(1_234_567);
    let first = [random.next(), random.next(), random.next()];
    assert_eq!(first, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    assert!((0..1000).all(|_| (0.0..1.0).contains(&random.unit())));
}

#[test]
fn our_exponential_agrees_with_the_platform() {
    assert_eq!(exp(0.0), 1.0);
    for i in 0..70_000 {
        let x = -f64::from(i) / 100.0;
        let (ours, theirs) = (exp(x), x.exp());
        assert!((ours - theirs).abs() <= 1e-15 * theirs, "exp({x}): {ours} against {theirs}");
    }
    assert_eq!((exp(-1e9), exp(f64::NEG_INFINITY), exp(f64::NAN)), (0.0, 0.0, 0.0));
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let good = SamplerOptions::default();
    let bad = [
        (
            SamplerOptions { temperature: -0.1, ..good.clone() },
            "--temp -0.1: expected a finite number, 0 (greedy) or above",
        ),
        (SamplerOptions { temperature: f32::NAN, ..good.clone() }, "--temp NaN: "),
        (SamplerOptions { temperature: f32::INFINITY, ..good.clone() }, "--temp inf: "),
        (
            SamplerOptions { top_p: 1.5, ..good.clone() },
            "--top-p 1.5: expected a number from 0 to 1 (1: off)",
        ),
        (SamplerOptions { top_p: f32::NAN, ..good.clone() }, "--top-p NaN: "),
        (SamplerOptions { min_p: -0.5, ..good.clone() }, "--min-p -0.5: expected a number from 0 (off) to 1"),
        (
            SamplerOptions { repeat_penalty: 0.0, ..good.clone() },
            "--repeat-penalty 0: expected a finite number above 0",
        ),
        (
            SamplerOptions { repeat_last_n: 1 << 21, ..good },
            "--repeat-last-n 2097152: expected at most 1048576",
        ),
    ];
    for (options, message) in bad {
        let error = Sampler::new(options).unwrap_err();
        assert!(error.is_misuse() && error.to_string().starts_with(message), "{error}");
    }
}

#[test]
fn a_warm_sampler_allocates_nothing() {
    let logits: Vec<f32> = (0..5000).map(|i| (i % 613) as f32 / 100.0).collect();
    for top_k in [0, 40] {
        let options = SamplerOptions { top_k, top_p: 0.9, repeat_penalty: 1.1, ..SamplerOptions::default() };
        let mut sampler = Sampler::new(options).unwrap();
        sampler.accept(1);
        sampler.sample(&logits);
        let room = |s: &Sampler| {
            [s.recent.capacity(), s.penalized.capacity(), s.candidates.capacity(), s.weights.capacity()]
        };
        let before = room(&sampler);
        for _ in 0..200 {
            let id = sampler.sample(&logits);
            sampler.accept(id);
        }
        assert_eq!(room(&sampler), before);
    }
}
