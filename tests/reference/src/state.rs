//! What a stream carries from one token to the next.

use std::collections::VecDeque;

use crate::attention::Cache;
use crate::weights::At;

/// The states of all layers of one stream.
pub(crate) struct Stream {
    window: Option<usize>,
    layers: Vec<Layer>,
}

/// The state of one layer. Each kind of layer uses the parts that it needs and leaves the others empty.
pub(crate) struct Layer {
    pub(crate) conv: Conv,
    /// The state-space state: Mamba-1 `[D][N]`, Mamba-2 `[H][P][N]`; empty until the first token.
    pub(crate) ssm: Vec<f64>,
    pub(crate) cache: Cache,
    /// Time since the input before, relative to that of training.
    pub(crate) interval: f64,
}

impl Stream {
    pub(crate) fn new(window: Option<usize>) -> Self {
        assert_ne!(window, Some(0), "a window holds the token's own position at least");
        Self { window, layers: Vec::new() }
    }

    /// The state of layer `i`, empty at first.
    pub(crate) fn layer(&mut self, i: usize) -> &mut Layer {
        let window = self.window;
        let empty =
            || Layer { conv: Conv::default(), ssm: Vec::new(), cache: Cache::new(window), interval: 1.0 };
        if self.layers.len() <= i {
            self.layers.resize_with(i + 1, empty);
        }
        &mut self.layers[i]
    }
}

/// The last `K-1` inputs `[C]` of a causal depthwise convolution, the oldest first.
#[derive(Default)]
pub(crate) struct Conv {
    window: VecDeque<Vec<f64>>,
}

impl Conv {
    /// `out[c] = bias[c] + Σ_{j<K} weight[c,0,j] · window[j][c]`, where `window[K-1]` is the new input and what
    /// came before the first token is zero. `conv` holds `weight [C,1,K]` and, in some models, `bias [C]`.
    pub(crate) fn step(&mut self, conv: &At, input: &[f64]) -> Vec<f64> {
        let weight = conv.tensor("weight");
        let [channels, 1, width] = weight.shape[..] else { panic!("a convolution of {:?}", weight.shape) };
        assert_eq!(
            channels,
            input.len(),
            "a convolution of {:?} meets another number of channels",
            weight.shape
        );

        self.window.push_back(input.to_vec());
        while self.window.len() < width {
            self.window.push_front(vec![0.0; channels]);
        }
        let bias = conv.find("bias").map_or(vec![0.0; channels], |bias| bias.data.clone());
        let out = (0..channels)
            .map(|c| {
                bias[c] + (0..width).map(|j| weight.data[c * width + j] * self.window[j][c]).sum::<f64>()
            })
            .collect();
        self.window.pop_front();
        out
    }
}
