"""The data sets that this package knows: their files, folders, mirrors and checksums, as `Source` values.

The checksums are those that torchvision publishes. Fingerprints (md5 of the test labels, without header) tell MNIST
and Fashion-MNIST apart, whose files have the same names.
"""

from plasticity_lightning.data.sources import Layout, RemoteFile, Source

__all__ = ["CIFAR10", "CIFAR100", "FASHION_MNIST", "IMAGENET", "MNIST", "NMNIST", "TEST_LABEL_FINGERPRINTS"]

TEST_LABEL_FINGERPRINTS = {
    "073c3904dfbd3e141ff8aa01cfde6b15": "MNIST",
    "8dea97a4e78c1bd1b5a6e8efbb870b6e": "Fashion-MNIST",
}

_IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_IDX_LAYOUT = Layout(
    "idx",
    {
        role: (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz")
        for role, name in _IDX_FILES.items()
    },
)


def _idx_remote(mirrors: tuple[str, ...], checksums: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    names = [f"{name}.gz" for name in _IDX_FILES.values()]
    return tuple(
        RemoteFile(name, md5, tuple(mirror + name for mirror in mirrors))
        for name, md5 in zip(names, checksums, strict=True)
    )


MNIST = Source(
    title="MNIST",
    folders=("mnist", "mnist/raw", "mnist/mnist/raw"),
    layouts=(_IDX_LAYOUT,),
    remote=_idx_remote(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    download_folder="MNIST/raw",
    how_to_get="put the four IDX files (train-images-idx3-ubyte and so on, .gz or not) into a folder `mnist`.",
)

FASHION_MNIST = Source(
    title="Fashion-MNIST",
    folders=("fashion-mnist", "fashion-mnist/raw", "fashion"),
    layouts=(_IDX_LAYOUT,),
    remote=_idx_remote(
        (
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    download_folder="FashionMNIST/raw",
    how_to_get="on Debian and Ubuntu, `apt install dataset-fashion-mnist` installs it where it is found by itself; "
    "else put the four IDX files (train-images-idx3-ubyte and so on, .gz or not) into a folder `fashion-mnist`.",
)

CIFAR10 = Source(
    title="CIFAR-10",
    folders=("cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar10"),
    layouts=(
        Layout(
            "folder",
            {name: (name,) for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")},
        ),
        Layout("archive", {"archive": ("cifar-10-python.tar.gz",)}),
        Layout("jpeg_zip", {"archive": ("cifar10-jpeg.zip", "CIFAR-10-images.zip", "CIFAR-10-images-master.zip")}),
    ),
    remote=(
        RemoteFile(
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
        ),
    ),
    how_to_get="put cifar-10-python.tar.gz (the data set's python version), the folder cifar-10-batches-py extracted "
    "from it, or a zip of JPEGs in class folders named cifar10-jpeg.zip into a folder `cifar10`.",
)

CIFAR100 = Source(
    title="CIFAR-100",
    folders=("cifar-100-python", "cifar100/cifar-100-python", "cifar100"),
    layouts=(
        Layout("folder", {"train": ("train",), "test": ("test",), "meta": ("meta",)}),
        Layout("archive", {"archive": ("cifar-100-python.tar.gz",)}),
    ),
    remote=(
        RemoteFile(
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        ),
    ),
    how_to_get="put cifar-100-python.tar.gz (the data set's python version), or the folder cifar-100-python extracted "
    "from it, into a folder `cifar100`.",
)

IMAGENET = Source(
    title="ImageNet (images in class folders)",
    folders=("imagenet", "imagenet2012", "ilsvrc2012", "imagenet/ILSVRC/Data/CLS-LOC"),
    layouts=(Layout("folder", {"train": ("train",), "val": ("val",)}),),
    how_to_get="it has to be obtained by hand (https://image-net.org); put the images into train/CLASS/ and val/CLASS/ "
    "of a folder `imagenet`, or give the folder that holds `train` and `val` as root.",
)

NMNIST = Source(
    title="N-MNIST",
    folders=("nmnist",),
    layouts=(
        Layout("folder", {"train": ("Train",), "test": ("Test",)}),
        Layout("zip", {"train": ("Train.zip",), "test": ("Test.zip",)}),
    ),
    how_to_get="it has to be downloaded by hand: Train.zip and Test.zip from the page of Orchard et al. 2015 "
    "(https://www.garrickorchard.com/datasets/n-mnist, hosted at Mendeley Data, doi 10.17632/468j46mzdv.1); put them, "
    "extracted or not, into a folder `nmnist`.",
)
