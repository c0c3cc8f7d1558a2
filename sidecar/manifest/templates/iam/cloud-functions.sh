gcloud functions add-invoker-policy-binding $service --region=$region \
    --member=$member
