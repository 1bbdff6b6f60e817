"""Texts that come with hf_init, to see what new tokens do to them."""

from __future__ import annotations

TEXTS: tuple[str, ...] = (
    "The harbour was quiet when the ferry came in. Two men in yellow coats caught the ropes, and a boy counted the "
    "crates aloud as they swung over the rail. By noon the fog had lifted, and from the hill one could see all three "
    "islands, the nearest so green that it looked painted.",
    "Water boils at a lower temperature on a mountain, because the air presses on it less. At three thousand metres it "
    "boils at about ninety degrees, so an egg takes longer to cook there than at the sea. A pressure cooker does the "
    "opposite: it keeps the steam in, the pressure rises, and the food is done sooner.",
    "def moving_average(values, width):\n"
    '    """Yield the mean of each run of `width` values."""\n'
    "    total = sum(values[:width])\n"
    "    yield total / width\n"
    "    for old, new in zip(values, values[width:]):\n"
    "        total += new - old\n"
    "        yield total / width\n",
    "Dear Ms Okafor, thank you for your order of 14 March. Two of the five chairs are in stock and will be sent "
    "tomorrow; the other three we expect by the end of next week. If you would rather have all five at once, please "
    "let us know, and we will hold the first two. Nothing will be charged until everything is on its way.",
    "In 1854 a doctor named John Snow drew a map of one London district and marked on it every house in which someone "
    "had died of cholera. The marks crowded around a single pump in Broad Street. He had the handle of the pump taken "
    "off, and although the outbreak was already fading, the map changed how people thought about disease.",
    "Preheat the oven to 200 degrees. Rub 120 g of cold butter into 250 g of flour, add a pinch of salt, and bring the "
    "dough together with three spoons of water. Let it rest for half an hour; roll it out thin, prick it with a fork, "
    "and bake it blind for twelve minutes before the filling goes in.",
    "A patient with chest pain should be examined at once. Note when it began, whether it spreads to the arm or the "
    "jaw, and whether it changes with breathing or with movement. Measure the blood pressure on both sides, and record "
    "an electrocardiogram within ten minutes; a normal one doesn't rule out a heart attack.",
    "SELECT city, COUNT(*) AS orders, AVG(amount) AS mean_amount\n"
    "FROM purchases JOIN customers USING (customer_id)\n"
    "WHERE purchased_at >= '2023-01-01'\n"
    "GROUP BY city HAVING COUNT(*) > 100\n"
    "ORDER BY mean_amount DESC LIMIT 20;\n",
)
"""Prose, instructions and code, written for this purpose."""
