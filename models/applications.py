"""Networks of `keras.applications`, such as `{"name": "keras:MobileNetV2", "alpha": 0.5}`, without top and weights.

    images    in 0..1; a grey image is taken as a colour image with three equal channels
    scaling   to what the published weights of the network expect, see `SCALES`; inside the network, so that a site
              has nothing to do and nothing to forget
    network   as Keras builds it with `include_top=False, weights=None`; nothing is ever downloaded
    pooling   the average of each map, or its maximum
    dropout   then the usual output layer

`norm_momentum` is that of batch normalisation's moving statistics; 0 is what Keras has, 0.99 or 0.999, by which they
follow slowly where a session between two releases is a few hundred steps.

Which networks there are, and what may be said of each, stands here, since nothing may be asked of Keras before it is
loaded. Layers that Keras numbers through in a process are numbered from the network's first one, so equal specs have
equal names. The layers of another version of Keras may differ: genesis records them, see `likeness`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedssh.models.layout import snake

if TYPE_CHECKING:
    import keras

PREFIX = "keras:"
POOLINGS = ("avg", "max")
CHANNELS = (1, 3)
MEANS, DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet in 0..1: red, green, blue
# What is done to images in 0..1, as `imagenet_utils.preprocess_input` and the layers of some networks do it to 0..255.
SCALES: Mapping[str, tuple[Any, Any]] = {
    "tf": (2.0, -1.0),  # to -1..1
    "torch": ([1 / one for one in DEVIATIONS], [-mean / one for mean, one in zip(MEANS, DEVIATIONS, strict=True)]),
    "caffe": (255.0, [-103.939, -116.779, -123.68]),  # with the channels in the order blue, green, red
    "128": (255 / 128, -1.0),
}


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications`, as `models.Architecture` has it.

    Attributes:
        function: What makes it there.
        scale: Of `SCALES`.
        smallest: Height and width that images have at least.
        own: Parameters of its function, with their defaults.
        fixed: Arguments of its function that nobody is asked for.
    """

    function: str
    scale: str
    smallest: int = 32
    own: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def PARAMETERS(self) -> Mapping[str, Any]:  # noqa: N802 - as modules call it
        """Its own, and those of what follows it."""
        return {**self.own, "pooling": "avg", "dropout": 0.2, "norm_momentum": 0.0}

    def check(self, spec: Mapping[str, Any]) -> None:
        """Refuse images and parameters that it cannot be built for."""
        height, width, channels = spec["input"]
        least = self.smallest
        if min(height, width) < least:
            raise ValueError(f"{spec['name']} needs images of at least {least}x{least}, found {height}x{width}")
        if channels not in CHANNELS:
            raise ValueError(f"{spec['name']} takes grey or colour images, 1 or 3 channels, found {channels}")
        if spec["pooling"] not in POOLINGS:
            raise ValueError(f"pooling must be {' or '.join(POOLINGS)}, found {spec['pooling']!r}")
        if not 0 <= spec["dropout"] < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, found {spec['dropout']:g}")
        if not 0 <= spec["norm_momentum"] < 1:
            raise ValueError(f"norm_momentum must be at least 0 and less than 1, found {spec['norm_momentum']:g}")
        if not 0.01 <= spec.get("alpha", 1.0) <= 8:
            raise ValueError(f"alpha must be in 0.01..8, found {spec['alpha']:g}")

    def hidden(self, images: Any, spec: Mapping[str, Any]) -> Any:
        """Scaling, the network, pooling and dropout; its layers have the names that `settled` makes fixed."""
        import keras

        x = images
        if spec["input"][2] == 1:
            x = keras.layers.Concatenate(name="colours")([x, x, x])
        scale, offset = SCALES[self.scale]
        if self.scale == "caffe":
            x = keras.ops.flip(x, axis=-1)
        x = keras.layers.Rescaling(scale, offset, name="scaling")(x)
        make = getattr(keras.applications, self.function)
        given = {name: spec[name] for name in self.own}
        x = make(include_top=False, weights=None, input_tensor=x, **given, **self.fixed).output
        pool = keras.layers.GlobalAveragePooling2D if spec["pooling"] == "avg" else keras.layers.GlobalMaxPooling2D
        return keras.layers.Dropout(spec["dropout"], name="dropout")(pool(name="pooling")(x))

    def settled(self, network: keras.Model, spec: Mapping[str, Any]) -> keras.Model:
        """The same network, with a fixed name for each layer, and without scaling of its own, which EfficientNet has.

        Part of that would be statistics which Keras reads when a network is built and not when weights are set.
        """
        import keras

        fixed: dict[str, str] = {}
        counts: dict[str, int] = {}
        for layer in network.layers:
            kind = snake(type(layer).__name__)
            if re.fullmatch(rf"{kind}(_\d+)?", layer.name):
                counts[kind] = counts.get(kind, 0) + 1
                fixed[layer.name] = f"auto_{kind}_{counts[kind]}"

        def again(layer: Any) -> Any:
            name = fixed.get(layer.name, layer.name)
            own_scaling = isinstance(layer, (keras.layers.Normalization, keras.layers.Rescaling))
            if own_scaling and name != "scaling":
                return keras.layers.Identity(name=name)
            config = layer.get_config() | {"name": name}
            if spec["norm_momentum"] and isinstance(layer, keras.layers.BatchNormalization):
                config["momentum"] = spec["norm_momentum"]
            return type(layer).from_config(config)

        return keras.models.clone_model(network, clone_function=again)


def load(name: str) -> Application | None:
    """The network that a spec's name means; None where it is none of these."""
    return APPLICATIONS.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def near(word: str) -> str | None:
    """The name of the network that somebody may have meant, such as by `mobilenet_v2`."""
    plain = {_plain(name): name for name in APPLICATIONS}
    found = difflib.get_close_matches(_plain(word.removeprefix(PREFIX)), plain, 1, 0.8)
    return PREFIX + plain[found[0]] if found else None


def _plain(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


_PLAIN = {"include_preprocessing": False}  # what it would do is done before it
_V3 = {"alpha": 1.0, "minimalistic": False}
APPLICATIONS: Mapping[str, Application] = {
    application.function: application
    for application in (
        *(
            Application(f"ConvNeXt{size}", "torch", fixed=_PLAIN)
            for size in ("Tiny", "Small", "Base", "Large", "XLarge")
        ),
        *(Application(f"DenseNet{depth}", "torch") for depth in (121, 169, 201)),
        *(Application(f"EfficientNetB{size}", "torch") for size in range(8)),
        *(Application(f"EfficientNetV2B{size}", "torch", fixed=_PLAIN) for size in range(4)),
        *(Application(f"EfficientNetV2{size}", "128", fixed=_PLAIN) for size in "SML"),
        Application("InceptionResNetV2", "tf", 75),
        Application("InceptionV3", "tf", 75),
        Application("MobileNet", "tf", own={"alpha": 1.0, "depth_multiplier": 1}),
        Application("MobileNetV2", "tf", own={"alpha": 1.0}),
        Application("MobileNetV3Large", "tf", own=_V3, fixed=_PLAIN),
        Application("MobileNetV3Small", "tf", own=_V3, fixed=_PLAIN),
        Application("NASNetLarge", "tf"),
        Application("NASNetMobile", "tf"),
        *(Application(f"ResNet{depth}", "caffe") for depth in (50, 101, 152)),
        *(Application(f"ResNet{depth}V2", "tf") for depth in (50, 101, 152)),
        Application("VGG16", "caffe"),
        Application("VGG19", "caffe"),
        Application("Xception", "tf", 71),
    )
}
