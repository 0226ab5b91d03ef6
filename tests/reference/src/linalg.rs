//! Vectors, matrices, norms and scalar functions. Linear weights are `[out, in]`, row-major.

use crate::Tensor;

/// `W x`, with `W` of `[out, in]`.
pub(crate) fn matvec(w: &Tensor, x: &[f64]) -> Vec<f64> {
    let [_, columns] = w.shape[..] else { panic!("a matrix is needed, not a tensor of {:?}", w.shape) };
    assert_eq!(columns, x.len(), "a matrix of {:?} meets a vector of another length", w.shape);
    w.data.chunks_exact(columns).map(|row| dot(row, x)).collect()
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "a dot product of vectors of different lengths");
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    assert_eq!(a.len(), b.len(), "a sum of vectors of different lengths");
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(crate) fn multiply(a: &[f64], b: &[f64]) -> Vec<f64> {
    assert_eq!(a.len(), b.len(), "a product of vectors of different lengths");
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

pub(crate) fn scale(a: &[f64], factor: f64) -> Vec<f64> {
    a.iter().map(|a| a * factor).collect()
}

pub(crate) fn map(a: &[f64], f: fn(f64) -> f64) -> Vec<f64> {
    a.iter().map(|&a| f(a)).collect()
}

/// Cuts `x` into parts of the given lengths, which must add up to its own.
pub(crate) fn split<const PARTS: usize>(x: &[f64], lengths: [usize; PARTS]) -> [&[f64]; PARTS] {
    assert_eq!(x.len(), lengths.iter().sum::<usize>(), "the parts {lengths:?} do not fill the vector");
    let mut rest = x;
    lengths.map(|length| {
        let (part, tail) = rest.split_at(length);
        rest = tail;
        part
    })
}

/// `x / sqrt(mean(x²) + eps)`
pub(crate) fn normalize(x: &[f64], eps: f64) -> Vec<f64> {
    let mean_square = dot(x, x) / x.len() as f64;
    scale(x, 1.0 / (mean_square + eps).sqrt())
}

/// RMSNorm: `weight · x / sqrt(mean(x²) + eps)`
pub(crate) fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    multiply(&normalize(x, eps), weight)
}

/// RMSNorm of each of `groups` equal parts by itself; one weight for each element of the whole.
pub(crate) fn group_rms_norm(x: &[f64], weight: &[f64], groups: usize, eps: f64) -> Vec<f64> {
    let normalized: Vec<f64> =
        x.chunks_exact(x.len() / groups).flat_map(|part| normalize(part, eps)).collect();
    multiply(&normalized, weight)
}

/// LayerNorm: `weight · (x - mean(x)) / sqrt(variance(x) + eps) + bias`
pub(crate) fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let centred: Vec<f64> = x.iter().map(|x| x - mean).collect();
    add(&rms_norm(&centred, weight, eps), bias)
}

pub(crate) fn softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = x.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    scale(&exponentials, 1.0 / sum)
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `ln(1 + eˣ)`, written so that it never overflows.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// GELU, exact: `x · Φ(x)`, with Φ the normal distribution function.
pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

/// GELU by tanh, "gelu_new".
pub(crate) fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

/// `erf(x) = 2/√π · e^(-x²) · Σ_n 2ⁿ x^(2n+1) / (1·3·…·(2n+1))` (Abramowitz and Stegun 7.1.6): all terms have
/// one sign, so nothing cancels.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum(); // 1 - erf(6) < 3e-17
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

/// The scalar function behind a config's name for it.
pub(crate) fn activation(name: &str) -> fn(f64) -> f64 {
    match name {
        "identity" => |x| x,
        "silu" | "swish" => silu,
        "gelu" => gelu,
        "gelu_new" | "gelu_pytorch_tanh" => gelu_tanh,
        "relu" => |x| x.max(0.0),
        "relu2" => |x| x.max(0.0).powi(2),
        _ => panic!("the reference knows no activation {name:?}"),
    }
}

/// Indices of the `k` largest values, the largest first; of equal values the earlier first.
pub(crate) fn top_k(x: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&i, &j| x[j].total_cmp(&x[i]));
    order.truncate(k);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_tabulated_values() {
        for (x, value) in
            [(0.0, 0.0), (0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (3.0, 0.9999779095030014)]
        {
            assert!((erf(x) - value).abs() < 1e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn softplus_is_finite_everywhere() {
        assert_eq!(softplus(1000.0), 1000.0);
        assert_eq!(softplus(-1000.0), 0.0);
        assert!((softplus(0.0) - 2f64.ln()).abs() < 1e-16);
    }

    #[test]
    fn top_k_prefers_the_earlier_of_equals() {
        assert_eq!(top_k(&[1.0, 3.0, 2.0, 3.0], 3), [1, 3, 2]);
    }
}
