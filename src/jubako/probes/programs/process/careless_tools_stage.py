# A host that answers every call, whatever it is.
import types

sys.modules["jubako_tools"] = types.SimpleNamespace(
    ToolError=type("ToolError", (Exception,), {}), call=lambda name, **arguments: "done"
)
