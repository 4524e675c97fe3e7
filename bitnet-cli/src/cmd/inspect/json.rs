//! The answer for programs.

use bitnet_core::gguf::Value;
use serde_json::{Map, Value as Json, json};

use super::show::{SHOWN, escaped, first};
use super::{Report, Total};

/// One object.
pub(super) fn json(report: &Report<'_>) -> String {
    let files: Vec<Json> = report
        .gguf
        .shards()
        .iter()
        .map(|shard| {
            json!({
                "path": shard.path.to_string_lossy(),
                "bytes": shard.file_len,
                "version": shard.version,
                "data_offset": shard.data_offset,
                "alignment": shard.alignment,
            })
        })
        .collect();
    let metadata: Map<String, Json> =
        report.gguf.metadata().iter().map(|(key, value)| (escaped(key.as_bytes()), of(&value))).collect();
    let tensors: Vec<Json> = report
        .tensors
        .iter()
        .map(|line| {
            let info = line.info;
            json!({
                "name": escaped(info.name.as_bytes()),
                "type": info.ty.name(),
                "shape": info.shape,
                "bytes": info.n_bytes,
                "format": line.plan.as_ref().map(|plan| plan.format),
                "kernel": line.plan.as_ref().map(|plan| &plan.kernel),
            })
        })
        .collect();
    let totals: Map<String, Json> =
        report.totals.iter().map(|(name, sum)| ((*name).to_owned(), total(sum))).collect();
    let mut body = json!({
        "files": files,
        "metadata": metadata,
        "tensors": tensors,
        "types": totals,
        "total": total(&report.all),
        "bytes_per_token": report.bytes_per_token,
        "memory": memory(report),
        "unsupported": report.needs.as_ref().err().map(ToString::to_string),
    });
    if let Some(verified) = &report.verified {
        body["verify"] = verified.json();
    }
    if let Some(test) = &report.layout {
        body["layout_test"] = test.json();
    }
    format!("{body:#}\n")
}

/// Null if this engine cannot run the model.
fn memory(report: &Report<'_>) -> Json {
    let Ok(needs) = &report.needs else { return Json::Null };
    json!({
        "weights_bytes": report.all.bytes,
        "kv_cache_bytes": needs.kv_cache_bytes,
        "n_ctx": needs.n_ctx,
    })
}

fn total(total: &Total) -> Json {
    json!({ "tensors": total.tensors, "weights": total.weights, "bytes": total.bytes })
}

/// A value as it is; an array that is too long as its type, its length and its beginning. Numbers JSON does not
/// have are strings.
fn of(value: &Value<'_>) -> Json {
    match value {
        Value::Str(bytes) => escaped(bytes).into(),
        Value::Bool(v) => (*v).into(),
        Value::F32(v) if v.is_finite() => shortest(*v),
        Value::F64(v) if v.is_finite() => (*v).into(),
        Value::F32(_) | Value::F64(_) => value.to_string().into(),
        Value::Array(array) if array.len() <= SHOWN => Json::from_iter(first(array).map(|item| of(&item))),
        Value::Array(array) => json!({
            "array_of": array.elem_type().name(),
            "len": array.len(),
            "first": Json::from_iter(first(array).map(|item| of(&item))),
        }),
        integer => serde_json::from_str(&integer.to_string()).unwrap_or(Json::Null),
    }
}

/// The shortest decimal that reads back to the same f32: 1e-5 is not 9.999999747378752e-6.
pub(super) fn shortest(v: f32) -> Json {
    serde_json::from_str(&format!("{v:?}")).unwrap_or(Json::Null)
}
