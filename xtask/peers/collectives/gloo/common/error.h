// Stands in for gloo's header, of which libtorch's declaration of ProcessGroupGloo needs nothing.
#pragma once
