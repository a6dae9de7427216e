from vitquant.quantized import Quantized as Quantized
from vitquant.quantized import load as load
from vitquant.quantized import quantize as quantize
from vitquant.quantized import save as save
