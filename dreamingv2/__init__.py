"""DreamingV2 (Okada & Taniguchi, IROS 2022) for TensorFlow."""

import os
import pathlib

__version__ = '0.1.0'

# TensorFlow picks its Keras when it is first imported. TensorFlow Probability
# 0.25 and the recurrent cells need Keras 2, which is the package tf_keras.
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')

# In a wheel common/, train.py and configs.yaml lie in this folder, in a
# checkout one above it: both ways they are dreamingv2.common and so on.
_FOLDER = pathlib.Path(__file__).resolve().parent
__path__ += [] if (_FOLDER / 'common').is_dir() else [str(_FOLDER.parent)]
