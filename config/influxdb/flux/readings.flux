// The readings of a meter in the last day, as they were read.
from(bucket: "charging_data")
    |> range(start: -24h)
    |> filter(fn: (r) => r._measurement == "meter_reading")
    |> filter(fn: (r) => r.meter_name == "Main Building Meter")
