#!/bin/sh
# Build the environments of the peers that medseg is measured against, once: nnU-Net and MONAI, each by itself.
#
#     sh benchmarks/performance/peers.sh [FOLDER]        (default: build/peers; 2 GB each)
#
# Both get medseg's own torch by its version, so that the same kernels are compared; where a CPU build is at hand pip
# takes it. MONAI runs medseg's own network, so it gets what reading a model needs. torchvision, which nnU-Net's networks
# pull in, is built against a CUDA torch and breaks their import.
set -eu
folder=${1:-build/peers}
python=${PYTHON:-python3}
torch=2.13.0

build() {  # NAME REQUIREMENT...
    name=$1; shift
    [ -e "$folder/$name/.done" ] && return
    echo "building $folder/$name ..."
    "$python" -m venv "$folder/$name"
    "$folder/$name/bin/pip" install --quiet --disable-pip-version-check "torch==$torch" "$@"
    "$folder/$name/bin/pip" uninstall --quiet --yes torchvision
    touch "$folder/$name/.done"
}

build nnunet nnunetv2==2.8.1
build monai monai==1.6.1 nibabel==5.4.2 pydantic==2.14.3 pyyaml==6.0.3 safetensors==0.8.0
