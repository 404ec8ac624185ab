"""From a trained float network to a master without training: customary weights in, INT8 codes and scales out."""
