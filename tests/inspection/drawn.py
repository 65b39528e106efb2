"""A picture to look at. Not a test itself."""

from PIL import Image, ImageDraw


def picture(size: tuple[int, int] = (84, 84)) -> Image.Image:
    """Shapes and colours, so that every perturbation shows."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    draw = ImageDraw.Draw(image)
    width, height = size
    box = (width // 4, height // 4, width // 2, height // 2)
    draw.rectangle(box, fill=(200, 40, 40))
    draw.line((0, height, width, 0), fill=(20, 90, 200), width=max(2, width // 20))
    return image
