"""Makes TensorFlow quiet and small before any test imports it."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Half the cores belong to the environments' processes.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '2')
os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
