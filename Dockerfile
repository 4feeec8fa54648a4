# docker build -t dreamingv2 .
# docker build -t dreamingv2 --build-arg FLAGS=--gpu .
# docker run --gpus all dreamingv2 train --task Lift --logdir /logdir
FROM python:3.11-slim-bookworm
ARG FLAGS=
# Compute for TensorFlow, graphics for EGL, utility for nvidia-smi.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility
# Tells EGL of NVIDIA's driver, which the container gets from the host.
RUN mkdir -p /usr/share/glvnd/egl_vendor.d && echo '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}' > /usr/share/glvnd/egl_vendor.d/10_nvidia.json
COPY . /dreamingv2
WORKDIR /dreamingv2
RUN bash install.sh $FLAGS
ENTRYPOINT ["/dreamingv2/.venv/bin/dreamingv2"]
