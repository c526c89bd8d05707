"""Asks the onnx package whether each graph given is valid, shapes included, and uses standard operators only."""
import sys

import onnx

for path in sys.argv[1:]:
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    domains = {node.domain for node in model.graph.node} | {entry.domain for entry in model.opset_import}
    assert domains == {""}, f"{path}: operators of {domains - {''}}"
    print(f"onnx.checker {onnx.__version__} accepts {path}: {len(model.graph.node)} nodes, opset {model.opset_import[0].version}")
