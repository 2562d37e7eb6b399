"""Takes photos of painted lesions: where the dermatoscope is held, what its lens, light and sensor do."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from core.demo_drawing import HALF_EXTENT

RGB = npt.NDArray[np.uint8]  # (height, width, 3)
Field = npt.NDArray[np.float32]  # (height, width)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A dermatoscope's looks.

    Attributes:
        cast: Gain of red, green and blue.
        contrast: Bend of the tone curve; above 0 darkens shadows and brightens lights.
        saturation: 1 as it is, 0 grey.
        aperture: Radius of the round view in half picture heights, beyond which all is black; 0 for none.
        falloff: Share of light lost in the corners of a 4:3 picture.
        grain: Standard deviation of the sensor's noise, of 1.
        blur: Radius in pixels at the default size.
    """

    cast: tuple[float, float, float]
    contrast: float = 0.3
    saturation: float = 1.0
    aperture: float = 0.0
    falloff: float = 0.1
    grain: float = 0.009
    blur: float = 0.0


DEVICES = (
    Device(cast=(1.03, 0.98, 0.97), falloff=0.08),
    Device(cast=(1.05, 0.90, 0.91), saturation=1.12, contrast=0.5),
    Device(cast=(0.96, 0.93, 1.06), saturation=0.9, falloff=0.2),
    Device(cast=(1.00, 0.95, 0.82), blur=0.5),
    Device(cast=(0.98, 0.95, 1.00), aperture=1.22, falloff=0.35, contrast=0.5),
    Device(cast=(0.90, 0.91, 0.89), saturation=0.8, grain=0.02, falloff=0.25),
)


def photograph(skin: RGB, rng: np.random.Generator, width: int, height: int) -> RGB:
    """One photo (height, width, 3) of painted skin, by a random device from a random angle."""
    device = DEVICES[rng.choice(len(DEVICES), p=[0.3, 0.2, 0.18, 0.1, 0.14, 0.08])]
    image = _held(skin, rng, width, height)
    if device.blur or rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur((device.blur or rng.uniform(0.4, 0.9)) * height / 225))
    light = np.asarray(image, np.float32) / 255
    x, y = np.meshgrid(
        np.linspace(-width / height, width / height, width, dtype=np.float32),
        np.linspace(-1, 1, height, dtype=np.float32),
    )
    light *= _illumination(x, y, device, rng)[..., None]
    light *= np.array(device.cast, np.float32) * rng.normal(1, 0.02, 3).astype(np.float32)
    grey = ((light[..., 0] + light[..., 1] + light[..., 2]) / 3)[..., None]
    light = grey + device.saturation * rng.uniform(0.92, 1.08) * (light - grey)
    light += np.float32(device.contrast + rng.normal(0, 0.12)) * light * (1 - light) * (light - 0.62)
    if device.aperture:
        edge = device.aperture * rng.uniform(0.95, 1.1)
        light *= np.clip((edge - np.hypot(x - rng.normal(0, 0.05), y)) / 0.04, 0.03, 1)[..., None]
    light += device.grain * rng.standard_normal((height, width, 1), dtype=np.float32)
    return (255 * np.clip(light, 0, 1) + 0.5).astype(np.uint8)


def _held(skin: RGB, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """The part of the skin that the device is held over: turned, zoomed, shifted and slightly tilted."""
    scale = len(skin) / (2 * HALF_EXTENT)
    turn, zoom = rng.normal(0, 0.35), float(np.exp(rng.uniform(np.log(0.88), np.log(1.3))))
    # Tilting the device shortens the view in one direction; at these angles perspective adds nothing visible.
    tilt, shift = rng.normal(0, 0.03, (2, 2)), rng.normal(0, 0.07, 2)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ (np.eye(2) + tilt)
    matrix *= scale / zoom / (height / 2)
    centre = len(skin) / 2 + shift * scale - matrix @ np.array([width / 2, height / 2])
    coefficients = (*matrix[0], centre[0], *matrix[1], centre[1])
    return Image.fromarray(skin).transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )


def _illumination(x: Field, y: Field, device: Device, rng: np.random.Generator) -> Field:
    """How much light falls where: stronger on one side, weaker in the corners."""
    slope_x, slope_y = rng.normal(0, 0.035, 2).astype(np.float32)
    brightness, falloff = np.float32(rng.uniform(0.9, 1.08)), np.float32(device.falloff / 2.8)
    light: Field = brightness * (1 + slope_x * x + slope_y * y) * (1 - falloff * (x**2 + y**2))
    return light
