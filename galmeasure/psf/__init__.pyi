from galmeasure.psf.collection import PSFCollection as PSFCollection
