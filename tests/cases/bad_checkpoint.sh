# Damaged, hostile and unsupported checkpoints: one clear message, the right exit code, and an output
# from an earlier compile stays as it was.
set -u
. tests/lib.sh

out=$work/out
echo "an older output" >"$out"

# refused NAME CODE WORDS: compiles $work/NAME.
refused() {
    fails "$1" "$2" "$3" "$compiler" "$work/$1" -o "$out" --target cpu --progress none
    if ! grep -qa "^an older output$" "$out"; then
        not_ok "$1" "the older output was changed"
        echo "an older output" >"$out"
    fi
}

# edit NAME FILE PYTHON: changes a JSON file; `j` is the parsed object.
edit() {
    python3 - "$work/$1/$2" "$3" <<'PY'
import json, sys
path, code = sys.argv[1:]
j = json.load(open(path, encoding="utf-8"))
exec(code)
json.dump(j, open(path, "w", encoding="utf-8"))
PY
}

# tensors NAME PYTHON: changes the safetensors file; `h` is the header, `data` the buffer.
tensors() {
    python3 - "$work/$1/model.safetensors" "$2" <<'PY'
import json, struct, sys
path, code = sys.argv[1:]
whole = open(path, "rb").read()
size = struct.unpack("<Q", whole[:8])[0]
h, data = json.loads(whole[8:8 + size]), bytearray(whole[8 + size:])
exec(code)
text = json.dumps(h).encode()
open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)
PY
}

# variant NAME CODE WORDS FILE PYTHON: a copy of the sample with one JSON change.
variant() {
    copy_sample "$1"
    edit "$1" "$4" "$5"
    refused "$1" "$2" "$3"
}

tensor_variant() {
    copy_sample "$1"
    tensors "$1" "$4"
    refused "$1" "$2" "$3"
}

q=model.layers.0.self_attn.q_proj

refused missing_folder 2 'missing_folder'
mkdir "$work/empty_folder"
refused empty_folder 4 'safetensors'
copy_sample no_weights && rm "$work/no_weights/model.safetensors"
refused no_weights 4 'safetensors'
copy_sample no_tokenizer && rm "$work/no_tokenizer/tokenizer.json"
refused no_tokenizer 4 'tokenizer.json'
copy_sample broken_json && echo '{"architectures": [' >"$work/broken_json/config.json"
refused broken_json 4 'config.json:[0-9]+:[0-9]+'

variant other_architecture 3 'FalconForCausalLM' config.json 'j["architectures"] = ["FalconForCausalLM"]'
variant not_gptq 3 'awq' config.json 'j["quantization_config"]["quant_method"] = "awq"'
# Two configurations that disagree are settled by the tensors; one that they refute is refused.
copy_sample three_bits && rm "$work/three_bits/quantize_config.json"
edit three_bits config.json 'j["quantization_config"]["bits"] = 3'
refused three_bits 4 'bits'
variant rotated 3 'rotation' config.json 'j["quantization_config"]["rotation"] = "hadamard"'
variant zero_layers 4 'num_hidden_layers' config.json 'j["num_hidden_layers"] = 0'
variant huge_hidden 4 'hidden_size|shape|expected' config.json 'j["hidden_size"] = 1 << 40'

tensor_variant missing_tensor 4 "$q" "del h['$q.qweight']; del h['$q.scales']"
tensor_variant wrong_shape 4 "$q.*expected" "h['$q.qweight']['shape'].reverse()"
tensor_variant wrong_dtype 4 "$q" "h['$q.scales']['dtype'] = 'I16'"
tensor_variant unknown_dtype 4 "$q" "h['$q.scales']['dtype'] = 'Q9'"
tensor_variant nan_scales 4 "$q.scales" \
    "b = h['$q.scales']['data_offsets'][0]; data[b:b + 2] = b'\x00\x7e'"
tensor_variant infinite_scales 4 "$q.scales" \
    "b = h['$q.scales']['data_offsets'][0]; data[b:b + 2] = b'\x00\x7c'"
tensor_variant overlapping 4 'overlap|begins|hole|previous' \
    "o = h['$q.scales']['data_offsets']; o[0] -= 16; o[1] -= 16"
tensor_variant backwards 4 "$q" "h['$q.scales']['data_offsets'].reverse()"
tensor_variant trailing_bytes 4 'model.safetensors' "data += b'x'"
tensor_variant overflowing_shape 4 "$q" "h['$q.qweight']['shape'] = [1 << 62, 1 << 62]"
tensor_variant negative_shape 4 "$q" "h['$q.qweight']['shape'][0] = -48"

copy_sample truncated && truncate -s -100 "$work/truncated/model.safetensors"
refused truncated 4 'model.safetensors'
copy_sample no_header && printf 'abc' >"$work/no_header/model.safetensors"
refused no_header 4 'model.safetensors'
copy_sample long_header && printf '\xff\xff\xff\xff\xff\xff\xff\x7f{}' >"$work/long_header/model.safetensors"
refused long_header 4 'model.safetensors'
copy_sample path_traversal &&
    echo '{"weight_map": {"lm_head.weight": "../../secret.safetensors"}}' \
        >"$work/path_traversal/model.safetensors.index.json"
refused path_traversal 4 'secret'

# A group that does not exist.
copy_sample group_index
tensors group_index "
b, e = h['$q.g_idx']['data_offsets']
n = (e - b) // 4
data[b:e] = struct.pack('<%di' % n, *[(i * 7) % 4 for i in range(n)])"
refused group_index 4 "$q.g_idx"
