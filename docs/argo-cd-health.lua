-- Health of Quartermaster's resources in Argo CD. They follow kstatus: Ready is always there, Reconciling and Stalled only
-- while they are True. It needs nothing but the language itself, so that it runs with useOpenLibs off.
--
-- Put it into the ConfigMap argocd-cm, under the key resource.customizations.health.quartermaster.dev_InferenceBackend.

local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this version of the object yet" }
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

-- The first line that holds decides.
local verdicts = {
  { type = "Suspended", status = "True", health = "Suspended" },
  { type = "Stalled", status = "True", health = "Degraded" },
  { type = "Reconciling", status = "True", health = "Progressing" },
  { type = "Ready", status = "True", health = "Healthy" },
  { type = "Ready", status = "False", health = "Degraded" },
}
for _, verdict in ipairs(verdicts) do
  local condition = conditions[verdict.type]
  if condition ~= nil and condition.status == verdict.status then
    return { status = verdict.health, message = (condition.reason or "") .. ": " .. (condition.message or "") }
  end
end
return { status = "Progressing", message = "whether it is ready is not known yet" }
