"""The KServe v2 front: `inference.GRPCInferenceService`, as Triton speaks it, over the same catalog and scheduler."""
