"""DreamingV2 (Okada & Taniguchi, IROS 2022) for TensorFlow."""

import os
import platform

__version__ = '0.1.0'

# TensorFlow picks its Keras when it is first imported. TensorFlow Probability
# 0.25 and the recurrent cells need Keras 2, which is the package tf_keras.
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')

# TensorFlow uses the kernels of oneDNN by itself only where a CPU has AVX-512
# VNNI. They are faster without it, too (docs/performance.md).
if platform.machine() == 'x86_64':
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
