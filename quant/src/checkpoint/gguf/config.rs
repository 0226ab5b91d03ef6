//! A Hugging Face configuration made from the metadata, for the importers to read.
//!
//! Every key of the architecture is either read here, or known to say what the tensors' shapes say too, or refused
//! unless it is zero, false or empty: an option that is not known could change what the model computes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::families::{
    FALCON_H1_MAP, GRANITE_MAP, JAMBA_MAP, LFM2_MAP, MAMBA_MAP, MAMBA2_MAP, NEMOTRON_H_MAP,
};
use super::metadata::{Metadata, Value};
use super::names::{self, Found, Heads};
use super::{GgufError, tokenizer};

/// Keys that need no reading: sizes that the shapes tell, notes, and what only other architectures heed.
const KNOWN: [&str; 18] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "context_length",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "shortconv.l_cache",
    "ssm.conv_kernel",
    "ssm.group_count",
    "ssm.time_step_rank",
    "tensor_data_layout",
    "vocab_size",
];

/// What a family makes of the metadata.
pub(super) struct Family {
    pub(super) config: Json,
    pub(super) map: &'static names::Map,
    pub(super) heads: Heads,
}

/// Reads the metadata of a model.
pub(super) fn family(metadata: &Metadata, tensors: &BTreeMap<String, Found>) -> Result<Family, GgufError> {
    let keys = Keys::new(metadata)?;
    keys.refuse_shards()?;
    if !keys.flag("attention.causal", true)? {
        return Err(keys.refused("attention.causal"));
    }
    let layers = keys.count("block_count")?;
    // A layer has at least one tensor.
    if layers == 0 || layers > tensors.len() {
        return Err(GgufError::Count { what: "layers", count: layers as u64 });
    }
    // Ids beyond the embedding could not be read.
    if tensors.get("token_embd.weight").is_some_and(|t| t.listed.shape[0] < tokenizer::len(metadata)) {
        let (tensor, key) = ("token_embd.weight".into(), "tokenizer.ggml.tokens".into());
        return Err(GgufError::Contradiction { tensor, key });
    }
    let (map, config, heads) = match keys.architecture {
        "mamba" => (&MAMBA_MAP, keys.mamba()?, Heads::default()),
        "mamba2" => (&MAMBA2_MAP, keys.mamba2()?, Heads::default()),
        "falcon-h1" => {
            let (config, heads) = keys.falcon_h1(layers, tensors)?;
            (&FALCON_H1_MAP, config, heads)
        }
        "granitehybrid" => {
            let (config, heads) = keys.granite(layers)?;
            (&GRANITE_MAP, config, heads)
        }
        "jamba" => {
            let (config, heads) = keys.jamba(layers)?;
            (&JAMBA_MAP, config, heads)
        }
        "nemotron_h" => {
            let (config, heads) = keys.nemotron_h(layers)?;
            (&NEMOTRON_H_MAP, config, heads)
        }
        "lfm2" => {
            let (config, heads) = keys.lfm2(layers)?;
            (&LFM2_MAP, config, heads)
        }
        other => return Err(GgufError::Architecture(other.to_owned())),
    };
    let mut config: Map<String, Json> = config.as_object().cloned().unwrap_or_default();
    config.insert("num_hidden_layers".into(), layers.into());
    if let Some(length) = keys.find_count("context_length")? {
        config.insert("max_position_embeddings".into(), length.into());
    }
    let (bos, eos) = (tokenizer::token_id(metadata, "bos")?, tokenizer::stop_ids(metadata)?);
    config.insert("bos_token_id".into(), bos.into());
    config.insert("eos_token_id".into(), eos.into());
    keys.check_shapes(tensors)?;
    keys.refuse_others()?;
    Ok(Family { config: config.into(), map, heads })
}

/// The keys of an architecture, and which of them were asked for.
struct Keys<'m> {
    metadata: &'m Metadata,
    architecture: &'m str,
    read: RefCell<BTreeSet<String>>,
}

impl<'m> Keys<'m> {
    fn new(metadata: &'m Metadata) -> Result<Self, GgufError> {
        const KEY: &str = "general.architecture";
        let architecture = match metadata.get(KEY) {
            Some(Value::Text(name)) => str::from_utf8(name).ok(),
            Some(_) => None,
            None => return Err(GgufError::MissingKey(KEY.into())),
        };
        let architecture =
            architecture.ok_or_else(|| wrong(KEY, &metadata[KEY], "the name of an architecture"))?;
        Ok(Self { metadata, architecture, read: RefCell::default() })
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get(&self, key: &str) -> Option<&'m Value> {
        let name = self.name(key);
        let value = self.metadata.get(&name);
        self.read.borrow_mut().insert(name);
        value
    }

    fn find_count(&self, key: &str) -> Result<Option<usize>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Int(n @ 0..0x1_0000_0000)) => Ok(Some(*n as usize)),
            Some(other) => Err(wrong(&self.name(key), other, "a whole number")),
        }
    }

    fn count(&self, key: &str) -> Result<usize, GgufError> {
        self.find_count(key)?.ok_or_else(|| GgufError::MissingKey(self.name(key)))
    }

    fn find_number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(other) => Err(wrong(&self.name(key), other, "a finite number")),
        }
    }

    /// A factor; absent and 0 both stand for none.
    fn factor(&self, key: &str) -> Result<Option<f64>, GgufError> {
        Ok(self.find_number(key)?.filter(|x| *x != 0.0))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, GgufError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(&self.name(key), other, "true or false")),
        }
    }

    /// A number for every layer; a single one stands for all.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Vec<usize>, GgufError> {
        let bad = |value| wrong(&self.name(key), value, "a whole number for every layer");
        match self.get(key) {
            Some(value @ Value::Ints(list)) => {
                let numbers: Option<Vec<usize>> =
                    list.iter().map(|n| usize::try_from(*n).ok().filter(|n| *n < 1 << 32)).collect();
                numbers.filter(|numbers| numbers.len() == layers).ok_or_else(|| bad(value))
            }
            _ => Ok(vec![self.count(key)?; layers]),
        }
    }

    /// The number that all layers have but those with 0.
    fn common(&self, key: &str, layers: &[usize]) -> Result<usize, GgufError> {
        let mut numbers = layers.iter().filter(|n| **n > 0);
        let first = numbers.next().copied().unwrap_or(0);
        if numbers.any(|n| *n != first) {
            return Err(self.refused(key));
        }
        Ok(first)
    }

    fn refused(&self, key: &str) -> GgufError {
        let key = self.name(key);
        let value = self.metadata.get(&key).map(Value::to_string).unwrap_or_default();
        GgufError::Option { key, value }
    }

    /// Refuses parts of a model, of which the others would be needed.
    fn refuse_shards(&self) -> Result<(), GgufError> {
        match self.metadata.get("split.count") {
            None | Some(Value::Int(0 | 1)) => Ok(()),
            Some(value) => Err(GgufError::Option { key: "split.count".into(), value: value.to_string() }),
        }
    }

    /// Checks the sizes of which the shapes tell only the product: a wrong number of groups would go unseen.
    fn check_shapes(&self, tensors: &BTreeMap<String, Found>) -> Result<(), GgufError> {
        let [d_model, d_inner, d_state, groups] =
            ["embedding_length", "ssm.inner_size", "ssm.state_size", "ssm.group_count"]
                .map(|key| self.find_count(key).map(|n| n.map(|n| (key, n))));
        let (d_model, d_inner, d_state, groups) = (d_model?, d_inner?, d_state?, groups?);
        let is_grouped = self.architecture != "mamba" && self.architecture != "jamba";
        for (name, tensor) in tensors {
            let shape = tensor.listed.shape.as_slice();
            let agrees = |found: usize, (key, wanted): (&str, usize)| match found == wanted {
                true => Ok(()),
                false => Err(GgufError::Contradiction { tensor: name.clone(), key: self.name(key) }),
            };
            if let ("token_embd.weight", [.., columns], Some(d_model)) = (name.as_str(), shape, d_model) {
                agrees(*columns, d_model)?;
            }
            if let (true, [channels, _], Some(inner), Some(state), Some(groups)) =
                (is_grouped && name.ends_with(".ssm_conv1d.weight"), shape, d_inner, d_state, groups)
            {
                let bc = state.1.saturating_mul(groups.1).saturating_mul(2);
                agrees(*channels, (state.0, inner.1.saturating_add(bc)))?;
            }
            if let (true, [rows, _], Some(groups)) = (name.ends_with(".ssm_norm.weight"), shape, groups) {
                agrees(*rows, groups)?;
            }
        }
        Ok(())
    }

    /// Refuses keys that nothing has asked for.
    fn refuse_others(&self) -> Result<(), GgufError> {
        let prefix = self.name("");
        let read = self.read.borrow();
        for (key, value) in self.metadata.range(prefix.clone()..) {
            let Some(name) = key.strip_prefix(&prefix) else { break };
            let neutral = match value {
                Value::Int(n) => *n == 0,
                Value::Float(x) => *x == 0.0,
                Value::Bool(flag) => !flag,
                Value::Text(text) => text.is_empty(),
                _ => false,
            };
            if !neutral && !read.contains(key) && !KNOWN.contains(&name) {
                return Err(self.refused(name));
            }
        }
        Ok(())
    }

    fn eps(&self) -> Result<f64, GgufError> {
        let rms = self.find_number("attention.layer_norm_rms_epsilon")?;
        let other = self.find_number("attention.layer_norm_epsilon")?;
        rms.or(other).ok_or_else(|| GgufError::MissingKey(self.name("attention.layer_norm_rms_epsilon")))
    }

    /// Query heads, key heads of every layer, and the length of a head.
    fn heads(&self, layers: usize) -> Result<(Heads, Vec<usize>, usize), GgufError> {
        let queries = self.per_layer("attention.head_count", layers)?;
        let heads = self.common("attention.head_count", &queries)?;
        let kv = match self.get("attention.head_count_kv") {
            Some(_) => self.per_layer("attention.head_count_kv", layers)?,
            None => queries,
        };
        let kv_heads = self.common("attention.head_count_kv", &kv)?;
        let key_len = self.find_count("attention.key_length")?;
        let head_dim = match key_len {
            Some(n) => n,
            None => self.count("embedding_length")?.checked_div(heads).unwrap_or(0),
        };
        if self.find_count("attention.value_length")?.unwrap_or(head_dim) != head_dim {
            return Err(self.refused("attention.value_length"));
        }
        // Without attention neither matters, but importers want numbers.
        let heads = Heads { heads: heads.max(1), kv_heads: kv_heads.max(1) };
        Ok((heads, kv, head_dim.max(1)))
    }

    /// Rotary positions over whole heads.
    fn rope(&self, head_dim: usize) -> Result<Json, GgufError> {
        if self.find_count("rope.dimension_count")?.unwrap_or(head_dim) != head_dim {
            return Err(self.refused("rope.dimension_count"));
        }
        let theta = self.factor("rope.freq_base")?.unwrap_or(10_000.0);
        let kind = match self.get("rope.scaling.type") {
            // What llama.cpp takes a factor for that nothing is said about.
            None => "linear",
            Some(Value::Text(kind)) if kind == b"none" => "none",
            Some(Value::Text(kind)) if kind == b"linear" => "linear",
            Some(_) => return Err(self.refused("rope.scaling.type")),
        };
        let factor = self.factor("rope.scaling.factor")?;
        let factor = factor.or(self.factor("rope.scale_linear")?).filter(|_| kind == "linear");
        Ok(match factor {
            Some(factor) => json!({ "rope_theta": theta, "rope_type": "linear", "factor": factor }),
            None => json!({ "rope_theta": theta, "rope_type": "default" }),
        })
    }

    fn mamba(&self) -> Result<Json, GgufError> {
        let eps = self.eps()?;
        Ok(if self.flag("ssm.dt_b_c_rms", false)? {
            // llama.cpp has one epsilon for all norms.
            json!({ "model_type": "falcon_mamba", "layer_norm_epsilon": eps, "mixer_rms_eps": eps })
        } else {
            json!({ "model_type": "mamba", "layer_norm_epsilon": eps })
        })
    }

    fn mamba2(&self) -> Result<Json, GgufError> {
        Ok(json!({
            "model_type": "mamba2",
            "layer_norm_epsilon": self.eps()?,
            "n_groups": self.count("ssm.group_count")?,
        }))
    }

    fn falcon_h1(
        &self,
        layers: usize,
        tensors: &BTreeMap<String, Found>,
    ) -> Result<(Json, Heads), GgufError> {
        let (heads, _, head_dim) = self.heads(layers)?;
        // The multipliers are in the weights already; the gate comes before the norm.
        let config = json!({
            "model_type": "falcon_h1",
            "rms_norm_eps": self.eps()?,
            "num_attention_heads": heads.heads,
            "num_key_value_heads": heads.kv_heads,
            "head_dim": head_dim,
            "rope_parameters": self.rope(head_dim)?,
            "mamba_n_groups": self.count("ssm.group_count")?,
            "mamba_rms_norm": tensors.contains_key("blk.0.ssm_norm.weight"),
            "mamba_norm_before_gate": false,
        });
        Ok((config, heads))
    }

    fn granite(&self, layers: usize) -> Result<(Json, Heads), GgufError> {
        let (heads, kv, head_dim) = self.heads(layers)?;
        let kinds: Vec<&str> = kv.iter().map(|n| if *n == 0 { "mamba" } else { "attention" }).collect();
        // Granite's converter says with this key whether positions rotate.
        let rope = self.flag("rope.scaling.finetuned", true)?;
        let parameters = if rope { self.rope(head_dim)? } else { Json::Null };
        let scale = self.factor("attention.scale")?.unwrap_or(1.0 / (head_dim as f64).sqrt());
        let config = json!({
            "model_type": "granitemoehybrid",
            "rms_norm_eps": self.eps()?,
            "num_attention_heads": heads.heads,
            "num_key_value_heads": heads.kv_heads,
            "head_dim": head_dim,
            "layer_types": kinds,
            "position_embedding_type": if rope { "rope" } else { "nope" },
            "rope_parameters": parameters,
            "attention_multiplier": scale,
            "embedding_multiplier": self.factor("embedding_scale")?.unwrap_or(1.0),
            "residual_multiplier": self.factor("residual_scale")?.unwrap_or(1.0),
            "logits_scaling": self.factor("logit_scale")?.unwrap_or(1.0),
            "num_local_experts": self.find_count("expert_count")?.unwrap_or(0),
            "num_experts_per_tok": self.find_count("expert_used_count")?.unwrap_or(0),
            "mamba_n_groups": self.count("ssm.group_count")?,
        });
        Ok((config, heads))
    }

    fn jamba(&self, layers: usize) -> Result<(Json, Heads), GgufError> {
        let (heads, kv, head_dim) = self.heads(layers)?;
        let kinds: Vec<&str> = kv.iter().map(|n| if *n == 0 { "mamba" } else { "attention" }).collect();
        let config = json!({
            "model_type": "jamba",
            "rms_norm_eps": self.eps()?,
            "num_attention_heads": heads.heads,
            "num_key_value_heads": heads.kv_heads,
            "head_dim": head_dim,
            "layer_types": kinds,
            "num_experts": self.find_count("expert_count")?.unwrap_or(0),
            "num_experts_per_tok": self.find_count("expert_used_count")?.unwrap_or(0),
        });
        Ok((config, heads))
    }

    fn nemotron_h(&self, layers: usize) -> Result<(Json, Heads), GgufError> {
        let (heads, kv, head_dim) = self.heads(layers)?;
        let ff = self.per_layer("feed_forward_length", layers)?;
        let kind = |(kv, ff): (&usize, &usize)| match (kv, ff) {
            (0, 0) => "mamba",
            (_, 0) => "attention",
            _ => "mlp",
        };
        let kinds: Vec<&str> = kv.iter().zip(&ff).map(kind).collect();
        // llama.cpp has no bound on dt.
        let config = json!({
            "model_type": "nemotron_h",
            "layer_norm_epsilon": self.eps()?,
            "num_attention_heads": heads.heads,
            "num_key_value_heads": heads.kv_heads,
            "head_dim": head_dim,
            "layers_block_type": kinds,
            "n_groups": self.count("ssm.group_count")?,
            "time_step_min": 0.0,
        });
        Ok((config, heads))
    }

    fn lfm2(&self, layers: usize) -> Result<(Json, Heads), GgufError> {
        let (heads, kv, head_dim) = self.heads(layers)?;
        let kinds: Vec<&str> = kv.iter().map(|n| if *n == 0 { "conv" } else { "full_attention" }).collect();
        let config = json!({
            "model_type": "lfm2",
            "norm_eps": self.eps()?,
            "num_attention_heads": heads.heads,
            "num_key_value_heads": heads.kv_heads,
            "head_dim": head_dim,
            "layer_types": kinds,
            "rope_parameters": self.rope(head_dim)?,
        });
        Ok((config, heads))
    }
}

fn wrong(key: &str, value: &Value, expected: &'static str) -> GgufError {
    GgufError::Key { key: key.to_owned(), value: value.to_string(), expected }
}
