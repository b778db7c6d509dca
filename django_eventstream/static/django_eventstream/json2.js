// Browsers have JSON. This file is here for pages that still include it.
