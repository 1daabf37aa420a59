"""RQ-DINO: image codes learned by self-distillation through a residual quantizer."""
