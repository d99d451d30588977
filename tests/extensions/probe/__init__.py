"""A pack for tests: an output node that says what arrived at it, item by item, as UI data."""


class AnyType(str):
    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


class RingfenceProbe:
    INPUT_IS_LIST = True
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FUNCTION = "probe"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (AnyType("*"), {})}}

    def probe(self, value):
        return {"ui": {"probe": [self.describe(item) for item in value]}}

    @staticmethod
    def describe(item):
        if hasattr(item, "shape") and hasattr(item, "dtype"):
            array = item.detach().cpu().float().numpy() if hasattr(item, "detach") else item
            flat = array.reshape(-1)
            return {
                "shape": [int(n) for n in array.shape],
                "dtype": str(item.dtype),
                "min": float(flat.min()) if flat.size else None,
                "max": float(flat.max()) if flat.size else None,
            }
        return {"value": item}


NODE_CLASS_MAPPINGS = {"RingfenceProbe": RingfenceProbe}
