import numpy as np
import pytest

from hisdiff._stats._kernel import Kernel


@pytest.mark.parametrize("kernel", [Kernel(1.0, None), Kernel(0.3, 0.6)])
def test_products_of_whitened_features_are_the_kernel_also_where_landmarks_repeat(kernel):
    landmarks = np.random.default_rng(0).normal(size=(40, 3))
    landmarks[20:] = landmarks[:20]
    features = kernel(landmarks, landmarks) @ kernel.whitening(landmarks)
    np.testing.assert_allclose(features @ features.T, kernel(landmarks, landmarks), atol=1e-5)
