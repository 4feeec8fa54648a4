"""DreamingV2 (Okada & Taniguchi, IROS 2022) for TensorFlow."""

import os

__version__ = '0.1.0'

# TensorFlow picks its Keras when it is first imported. TensorFlow Probability
# 0.25 and the recurrent cells need Keras 2, which is the package tf_keras.
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
